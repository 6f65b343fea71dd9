"""Weights & Biases, through its own library, where the job asks for it and the library and a key are there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeAlias

from residency.server.worker_attempt import Attempt, Told, say

LogMetrics: TypeAlias = Callable[[dict[str, Any]], None]


@contextmanager
def wandb_runs(attempt: Attempt) -> Iterator[LogMetrics]:
    """What takes the metrics of each step. Where it cannot, an event says why, and training goes on without it."""
    asked = [one["wandb"] for one in attempt.job.integrations or [] if one.get("type") == "wandb"]
    runs: list[Any] = []
    if asked:
        reason = missing()
        if not reason:
            runs, reason = start_all(attempt, asked)
        said = f"Weights & Biases gets no metrics: {reason}" if reason else "Metrics go to Weights & Biases"
        if attempt.notes.get("wandb") != said:
            say(attempt, [Told(said, level="warn" if reason else "info")], {"wandb": said})

    def log_metrics(metrics: dict[str, Any]) -> None:
        for run in runs:
            run.log({name: value for name, value in metrics.items() if name != "step"}, step=metrics["step"])

    try:
        yield log_metrics
    finally:
        for run in runs:
            run.finish()


def missing() -> str | None:
    if find_spec("wandb") is None:
        return "its library is not installed on the server (pip install wandb)"
    if not (os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") == "offline"):
        return "the server has no WANDB_API_KEY"
    return None


def start_all(attempt: Attempt, asked: list[dict[str, Any]]) -> tuple[list[Any], str | None]:
    try:
        return [start(attempt, settings) for settings in asked], None
    except import_module("wandb").Error as error:
        return [], str(error).splitlines()[0]


def start(attempt: Attempt, settings: dict[str, Any]) -> Any:
    """The job's id is the run's, so that a job that is taken up again goes on in the same one."""
    job = attempt.job
    return import_module("wandb").init(
        project=settings["project"], name=settings.get("name") or job.id, entity=settings.get("entity"),
        tags=[*(settings.get("tags") or []), f"model:{job.model}"], id=job.id, resume="allow", reinit="create_new",
        dir=str(attempt.work), config={"model": job.model, "method": job.method, "seed": job.seed},
    )  # fmt: skip
