"""Checks a new job's files and settings before it is queued."""

from __future__ import annotations

import logging
import time
from typing import Any

from sqlalchemy.orm import Session

from residency.errors import ResidencyError
from residency.server.database.queue import LeaseLost, heartbeat, release
from residency.server.database.tables import Job
from residency.server.job_settings import run_config, unknown_hyperparameters
from residency.server.worker_attempt import Attempt, Desk, Told, add_events, say, write
from residency.server.worker_files import SAID, FileParam, Refusal, check_file, local_files
from residency.server.worker_finish import cancel, close, fail
from residency.server.worker_pulse import pulse

log = logging.getLogger(__name__)


def validate(desk: Desk, job: Job) -> None:
    """Ends with the job `queued`, `failed`, or, where it was asked for meanwhile, `cancelled`."""
    with pulse(desk.database, job) as beating:
        attempt = Attempt(desk, job, beating, dict(job.progress))
        try:
            check(attempt)
        except ResidencyError as error:
            fail(attempt, error.as_record())
        except LeaseLost:
            log.warning("%s: another worker has it now", job.id)


def check(attempt: Attempt) -> None:
    job = attempt.job
    if not attempt.notes.get("validating"):
        also = f" and validation file: {job.validation_file}" if job.validation_file else ""
        say(attempt, [Told(f"Validating training file: {job.training_file}{also}")], {"validating": True})
    train, validation = local_files(attempt.desk, job)
    run_config(job, train, validation)
    params: list[tuple[Any, FileParam]] = [(train, "training_file"), (validation, "validation_file")]
    for path, param in params:
        found = check_file(path, param) if path else 0
        if isinstance(found, Refusal):
            refuse(attempt, found)
            return
        if attempt.pulse.wanted == "cancel":
            cancel(attempt)
            return
    queue(attempt)


def queue(attempt: Attempt) -> None:
    """Unless the client has changed its mind meanwhile."""
    job, told = attempt.job, [Told("Files validated, moving job to queued state")]
    if unknown := unknown_hyperparameters(job):
        told.append(
            Told(f"Hyperparameters that mean nothing here and are left out: {', '.join(unknown)}", level="warn")
        )

    def change(session: Session) -> None:
        if heartbeat(session, job) == "cancel":
            attempt.pulse.wanted = "cancel"
            return
        release(session, job, "queued")
        add_events(session, job, told)

    write(attempt, change)
    if attempt.pulse.wanted == "cancel":
        cancel(attempt)


def refuse(attempt: Attempt, found: Refusal) -> None:
    """All problems are in the event; the job's error has the first."""
    data = {"problems": found.problems[:SAID], "problems_found": len(found.problems)}
    close(attempt, "failed", found.message, level="error", data=data if found.problems else {},
          error=found.as_error(), finished_at=time.time())  # fmt: skip
