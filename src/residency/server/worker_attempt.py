"""One worker's try at a job: what it works with, what it has told so far, and how that reaches the database.

`notes` are the job's `progress`: the last step and message that were told, the names that were given. They change
in the same transaction as what they note, so a second attempt tells nothing twice and misses nothing.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from residency.errors import ResourceError
from residency.records import RunFolder
from residency.server.database.connect import Database
from residency.server.database.queue import LeaseLost, append_event, keep
from residency.server.database.tables import Job
from residency.server.settings import Settings
from residency.server.storage import Storage
from residency.server.worker_child import TRAINER
from residency.server.worker_follow import Plan
from residency.server.worker_pulse import Pulse

log = logging.getLogger(__name__)
RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Desk:
    """What a worker has at hand for every job."""

    settings: Settings
    database: Database
    storage: Storage
    device: str
    """`cpu`, `cuda:0` ..."""
    program: str
    """The module that trains."""
    stopping: threading.Event
    """Set when the worker is asked to end."""

    @property
    def leased_device(self) -> str | None:
        """The name under which trainers take turns on it; a stand-in for a trainer needs no turn."""
        return f"{socket.gethostname()}:{self.device}" if self.program == TRAINER else None

    def work(self, job_id: str) -> Path:
        """Where a job's run file and its copies of the data lie."""
        return self.settings.home.absolute() / "work" / job_id


@dataclass(slots=True)
class Told:
    """Something to say in the job's events."""

    message: str
    level: str = "info"
    type: str = "message"
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Attempt:
    desk: Desk
    job: Job
    pulse: Pulse
    notes: dict[str, Any]
    plan: Plan | None = None

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.desk.settings.runs / self.job.id)

    @property
    def work(self) -> Path:
        return self.desk.work(self.job.id)


def write(attempt: Attempt, change: Callable[[Session], None]) -> None:
    """One transaction, tried again while the database refuses it. Raises LeaseLost once the job is not ours."""
    while True:
        if attempt.pulse.lost:
            raise LeaseLost(attempt.job.id)
        try:
            with attempt.desk.database.write() as session:
                change(session)
            return
        except ResourceError as error:
            log.error("%s: cannot be written down, and is tried again: %s", attempt.job.id, error)
            time.sleep(RETRY_SECONDS)


def say(attempt: Attempt, told: list[Told], notes: dict[str, Any] | None = None, **values: Any) -> None:
    """Writes events, and with them the notes and other columns of the job."""
    fresh = attempt.notes | (notes or {})

    def change(session: Session) -> None:
        keep(session, attempt.job, progress=fresh, **values)
        add_events(session, attempt.job, told)

    write(attempt, change)
    attempt.notes = fresh


def add_events(session: Session, job: Job, told: list[Told]) -> None:
    for one in told:
        append_event(session, job.id, one.message, level=one.level, type=one.type, data=one.data)
