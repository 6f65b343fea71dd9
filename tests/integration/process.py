"""A tiny training run in a process of its own, forked from one that has imported torch; and what it left."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from residency import pipeline
from residency.config.model import RunConfig
from residency.errors import ResidencyError
from residency.records import RunFolder, Summary

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["residency.pipeline", "transformers.models.llama.modeling_llama", "peft", "matplotlib.pyplot"]
)
STEPS = 60
LORA = {"kind": "lora", "rank": 4, "dropout": 0.2}
FULL = {"kind": "full"}
TIMINGS = {"seconds", "tokens_per_second"}
DEADLINE_SECONDS = 120


def start(config: RunConfig, runs: Path, *, resume: bool = False, before: Callable[[], Any] = int) -> BaseProcess:
    """`before` runs first in the new process."""
    process = CONTEXT.Process(target=_train, args=(config.model_dump(), runs, resume, before))
    process.start()
    return process


def _train(settings: dict[str, Any], runs: Path, resume: bool, before: Callable[[], Any]) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    torch.set_num_threads(1)
    before()
    try:
        pipeline.run(RunConfig.model_validate(settings), runs, resume=resume)
    except ResidencyError as error:
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(signal.SIGINT + 128)


def finish(process: BaseProcess) -> int:
    """Its exit code; negative where a signal ended it."""
    process.join(DEADLINE_SECONDS)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("the training process does not end")
    return process.exitcode


def train(config: RunConfig, runs: Path, *, resume: bool = False, before: Callable[[], Any] = int) -> int:
    return finish(start(config, runs, resume=resume, before=before))


def wait_for(condition: Callable[[], bool], process: BaseProcess) -> None:
    """Until it is true or the process has ended."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while process.is_alive() and not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def steps_done(run: RunFolder) -> int:
    try:
        return max((metric.step for metric in run.metrics()), default=0)
    except FileNotFoundError:
        return 0


def configure(folder: Path, adapter: dict[str, Any] = LORA, **train: Any) -> RunConfig:
    settings = {"epochs": 100, "max_steps": STEPS, "batch_size": 4, "learning_rate": 3e-3, "patience": None,
                "save_every_steps": 3, "eval_every_steps": 3} | train  # fmt: skip
    return RunConfig.model_validate({
        "model": {"id": str(folder / "model")},
        "data": {"train": str(folder / "train.jsonl"), "eval": "20%"},
        "adapter": adapter,
        "train": settings,
        "eval": {"probes": 0},  # tests/e2e/test_card.py has the card
        "speed": {"threads": 1, "precision": "fp32"},
    })  # fmt: skip


def assert_same_result(run: RunFolder, reference: RunFolder) -> None:
    """To the bit: the result, the last optimizer state, every loss, and what the summary says of them."""
    for name in ("adapter/adapter_model.safetensors", "model/model.safetensors",
                 f"checkpoints/step-{STEPS:06d}/optimizer.safetensors"):  # fmt: skip
        if (reference / name).exists():
            assert (run / name).read_bytes() == (reference / name).read_bytes(), name
    assert [m.model_dump(exclude=TIMINGS) for m in run.metrics()] == [
        m.model_dump(exclude=TIMINGS) for m in reference.metrics()
    ]
    facts = {"status", "steps", "epochs", "best_step", "train_loss", "eval_loss", "rows", "tokens", "trained_tokens"}
    ours, theirs = run.read("summary.json", Summary), reference.read("summary.json", Summary)
    assert ours.model_dump(include=facts) == theirs.model_dump(include=facts)
    assert not (run / "error.json").exists()


def kinds(run: RunFolder) -> list[str]:
    return [event.kind for event in run.events()]


def error(run: RunFolder) -> dict[str, Any]:
    return json.loads((run / "error.json").read_text())  # type: ignore[no-any-return]


def checkpoints(run: RunFolder) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("step-*"))


def copy_of(run: RunFolder, runs: Path) -> RunFolder:
    """An unfinished copy, as a kill after its last checkpoint leaves it."""
    shutil.copytree(run.path, runs / "run")
    for name in ("summary.json", "report.html", "report.md"):
        (runs / "run" / name).unlink()
    shutil.rmtree(runs / "run" / "adapter")
    return RunFolder(runs / "run")
