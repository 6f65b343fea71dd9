"""Carries what a run folder says into the job's row, its events and its checkpoints."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import delete
from sqlalchemy.orm import Session

from residency.server.database.queue import keep, record_checkpoint
from residency.server.database.tables import Checkpoint, Model
from residency.server.job_settings import mapping_said, resolved_method
from residency.server.names import checkpoint_name
from residency.server.worker_attempt import Attempt, Told, add_events, write
from residency.server.worker_follow import Follower, Plan, Step, read_plan
from residency.server.worker_results import (
    EARLIER_KEPT,
    all_metrics,
    epoch_folder,
    keep_adapter,
    step_message,
    step_metrics,
    steps_to_keep,
)

LEVELS = {"warning": "warn"}
SAID_ELSEWHERE = {"auto", "saved"}
"""Events of a run that a job says in OpenAI's words, or together."""


def tell(attempt: Attempt, follower: Follower, log_metrics: Callable[[dict[str, Any]], None], *, over: bool) -> None:
    """What is new since the last time. Raises LeaseLost."""
    notes, values = dict(attempt.notes), dict[str, Any]()
    run_messages = follower.new_messages(notes["messages"])
    told = [message_of(attempt, row) for row in run_messages if row["kind"] not in SAID_ELSEWHERE]
    notes["messages"] += len(run_messages)
    if attempt.plan is None and (plan := read_plan(attempt.run)):
        attempt.plan = plan
        if not notes["planned"]:
            told.append(Told(mapping_said(attempt.job, plan), data={"reasons": plan.reasons}))
            values["method"], notes["planned"] = resolved_method(attempt.job, plan), True
    plan = attempt.plan
    steps = follower.new_steps(notes["step"], plan, over=over) if plan else []
    if plan and steps:
        metrics = [step_metrics(step) for step in steps]
        told += [metrics_event(one, plan) for one in metrics]
        notes["step"] = metrics[-1]["step"]
        values["estimated_finish"] = estimated_finish(steps[-1], plan)
    fresh = new_checkpoints(attempt, plan, notes["step"]) if plan else {}
    if not told and not fresh and notes == attempt.notes:
        return
    write_down(attempt, told, notes, values, fresh)
    for step in steps:
        log_metrics(step_metrics(step))


def new_checkpoints(attempt: Attempt, plan: Plan, step: int) -> dict[str, str]:
    """The names of the newest checkpoints, by step, that are no models yet. Whole weights become one at the end."""
    recorded = max(map(int, attempt.notes["checkpoints"]), default=0)
    fresh = [one for one in steps_to_keep(attempt.run, plan, step)[-EARLIER_KEPT:] if one > recorded]
    return {str(one): name_checkpoint(attempt, one) for one in fresh
            if plan.adapter != "full" and keep_adapter(attempt.run, one)}  # fmt: skip


def name_checkpoint(attempt: Attempt, step: int) -> str:
    job = attempt.job
    return checkpoint_name(job.model, attempt.desk.settings.organization, job.suffix, step)


def write_down(attempt: Attempt, told: list[Told], notes: dict[str, Any], values: dict[str, Any],
               fresh: dict[str, str]) -> None:  # fmt: skip
    """`fresh` are checkpoints that become models; the oldest give way to them."""
    by_age = sorted((attempt.notes["checkpoints"] | fresh).items(), key=lambda item: int(item[0]))
    old, kept = dict(by_age[:-EARLIER_KEPT]), dict(by_age[-EARLIER_KEPT:])
    measured = all_metrics(attempt.run) if fresh else {}
    notes["checkpoints"] = kept

    def change(session: Session) -> None:
        keep(session, attempt.job, progress=notes, **values)
        add_events(session, attempt.job, told)
        for step in sorted(map(int, fresh.keys() & kept.keys())):
            record_checkpoint(session, attempt.job, kept[str(step)], str(epoch_folder(attempt.run, step)), step=step,
                              metrics=measured.get(step, {"step": step}))  # fmt: skip
        session.execute(delete(Checkpoint).where(Checkpoint.name.in_(old.values())))
        session.execute(delete(Model).where(Model.id.in_(old.values())))

    write(attempt, change)
    attempt.notes = notes
    for step in old:
        shutil.rmtree(epoch_folder(attempt.run, int(step)), ignore_errors=True)


def message_of(attempt: Attempt, row: dict[str, Any]) -> Told:
    """A run's own event, without the places of its files on this machine."""
    message = without_places(attempt, row["message"])
    return Told(message, level=LEVELS.get(row["level"], row["level"]), data={"kind": row["kind"]})


def without_places(attempt: Attempt, text: str) -> str:
    job = attempt.job
    names = {
        str(attempt.work / f"{job.training_file}.jsonl"): job.training_file,
        str(attempt.work / f"{job.validation_file}.jsonl"): str(job.validation_file),
        str(attempt.run.path): job.id,
        str(attempt.desk.settings.home.absolute()): "the server's folder",
    }
    for place, name in names.items():
        text = text.replace(place, name)
    return text


def metrics_event(metrics: dict[str, Any], plan: Plan) -> Told:
    data = metrics | {"total_steps": plan.steps}
    return Told(step_message(metrics, plan.steps), type="metrics", data=data)


def estimated_finish(last: Step, plan: Plan) -> float:
    done, seconds = int(last.train["step"]), float(last.train["seconds"])
    return time.time() + seconds / done * (plan.steps - done)
