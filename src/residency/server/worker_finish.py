"""The ends of a job, each one transaction: all of it is there afterwards, or nothing."""

from __future__ import annotations

import io
import time
from typing import Any

from sqlalchemy.orm import Session

from residency.records import Summary
from residency.server.database.queue import keep, release
from residency.server.database.tables import Checkpoint, File, Model
from residency.server.worker_attempt import Attempt, Told, add_events, write
from residency.server.worker_files import SAID
from residency.server.worker_follow import Follower, read_plan
from residency.server.worker_results import add_tokenizer, all_metrics, keep_adapter, result_csv, saved_steps
from residency.server.worker_tell import name_checkpoint, tell, without_places, write_down
from residency.server.worker_wandb import LogMetrics

RESULT_FILE = "step_metrics.csv"
SAID_AT_ONCE = 3
"""Problems in the message of a job's error."""


def complete(attempt: Attempt, log_metrics: LogMetrics) -> None:
    """The model, its checkpoints and the result file become the client's."""
    tell(attempt, Follower(attempt.run), log_metrics, over=True)
    run, job, notes = attempt.run, attempt.job, attempt.notes
    summary = run.read("summary.json", Summary)
    metrics = all_metrics(run)
    table = result_csv(metrics)
    for step in notes["checkpoints"]:
        add_tokenizer(run, int(step))
    step = summary.best_step or summary.steps
    report = summary.model_dump(mode="json", exclude={"version", "environment"})
    told = [Told(f"Checkpoint created at step {step} with Snapshot ID: {name}")
            for step, name in notes["checkpoints"].items()]  # fmt: skip
    told += [Told(f"New fine-tuned model created: {notes['name']}"), Told("The job has successfully completed")]

    def change(session: Session) -> None:
        attempt.desk.storage.write(notes["result_file"], io.BytesIO(table))  # a full disk is waited for, too
        release(
            session, job, "succeeded", progress=notes | {"open": False}, finished_at=time.time(),
            fine_tuned_model=notes["name"], result_files=[notes["result_file"]], trained_tokens=summary.tokens,
            estimated_finish=None, extensions=job.extensions | {"report": report},
        )  # fmt: skip
        session.add(File(id=notes["result_file"], project_id=job.project_id, filename=RESULT_FILE,
                         purpose="fine-tune-results", bytes=len(table)))  # fmt: skip
        session.add(final_model(attempt))
        session.add(Checkpoint(job_id=job.id, name=notes["name"], step_number=step,
                               metrics=metrics.get(step, {"step": step})))  # fmt: skip
        add_events(session, job, told)

    write(attempt, change)
    forget_data(attempt)


def final_model(attempt: Attempt) -> Model:
    """An adapter on the base, or a base of its own where all weights were trained."""
    run, job, name = attempt.run, attempt.job, attempt.notes["name"]
    whole = run / "model"
    base, adapter = (str(whole), None) if whole.is_dir() else (job.base, str(run / "adapter"))
    return Model(id=name, project_id=job.project_id, base=base, adapter=adapter, job_id=job.id)


def fail(attempt: Attempt, record: dict[str, Any]) -> None:
    """`record` is an error as `error.json` holds it."""
    problems = [without_places(attempt, problem) for problem in record.get("problems", [])[:SAID]]
    message = "; ".join([without_places(attempt, record["message"]), *problems[:SAID_AT_ONCE]])
    if record.get("hint"):
        message += f" ({without_places(attempt, record['hint'])})"
    code, param = record["code"], None
    if record.get("type") == "DataError":
        code, param = "invalid_training_file", "training_file"
    close(attempt, "failed", message, level="error", data={"problems": problems} if problems else {},
          error={"code": code, "message": message, "param": param}, finished_at=time.time())  # fmt: skip


def cancel(attempt: Attempt) -> None:
    close(attempt, "cancelled", "Fine-tuning job cancelled", finished_at=time.time())


def leave(attempt: Attempt, why: str) -> None:
    """The job is given back as it is: it keeps its status and what is wanted of it, for whoever claims it next."""
    notes = attempt.notes | {"open": False}

    def change(session: Session) -> None:
        keep(session, attempt.job, progress=notes, estimated_finish=None, worker=None, lease_until=0.0)
        add_events(session, attempt.job, [Told(why)])

    write(attempt, change)


def close(attempt: Attempt, status: str, message: str, *, level: str = "info", data: dict[str, Any] | None = None,
          **values: Any) -> None:  # fmt: skip
    """Ends this attempt, and says so."""
    notes = attempt.notes | {"open": False}

    def change(session: Session) -> None:
        release(session, attempt.job, status, progress=notes, estimated_finish=None, **values)
        add_events(session, attempt.job, [Told(message, level=level, data=data or {})])

    write(attempt, change)
    if "finished_at" in values:
        forget_data(attempt)


def snapshot(attempt: Attempt) -> None:
    """Makes the newest checkpoint of a paused run a model that can be used."""
    plan, saved = read_plan(attempt.run), saved_steps(attempt.run)
    if plan is None or not saved or plan.adapter == "full":
        return
    step = saved[-1]
    if str(step) in attempt.notes["checkpoints"] or not keep_adapter(attempt.run, step):
        return
    name = name_checkpoint(attempt, step)
    told = [Told(f"Checkpoint created at step {step} with Snapshot ID: {name}")]
    write_down(attempt, told, dict(attempt.notes), {}, {str(step): name})


def forget_data(attempt: Attempt) -> None:
    """The job's copies of its files go when it is over; the client's files are the client's to delete."""
    for copy in attempt.work.glob("*.jsonl"):
        copy.unlink(missing_ok=True)
