"""A server's home without its API: files and jobs are put there as the API does, and workers run as processes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import select

from residency.records import RunFolder
from residency.server.api.jobs import cancel, pause, resume
from residency.server.database.connect import open_database
from residency.server.database.queue import append_event
from residency.server.database.tables import Checkpoint, File, Job, JobEvent, Model
from residency.server.keys import find_project
from residency.server.settings import Settings
from residency.server.storage import Storage
from residency.server.supervise_settings import write_settings
from residency.server.worker import LANES, take
from residency.server.worker_attempt import Desk
from residency.server.worker_child import NULL_TRAINER, TRAINER

OVER = ("succeeded", "failed", "cancelled")
PATIENCE_SECONDS = 240.0


def jsonl(some: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in some).encode()


class Home:
    """`null` jobs are trained by nobody."""

    def __init__(self, folder: Path, *, database: str | None = None, null: bool = False) -> None:
        self.settings = Settings(home=folder, database=database, organization="org", conformance_fixtures=null)
        write_settings(self.settings)
        self.database = open_database(self.settings.database_url)
        self.storage = Storage(self.settings.files_url, folder / "cache")
        with self.database.write() as session:
            self.project = find_project(session).id

    def close(self) -> None:
        self.database.close()

    # ---- as a client

    def upload(self, content: bytes) -> str:
        with self.database.write() as session:
            file = File(project_id=self.project, filename="train.jsonl", purpose="fine-tune", bytes=len(content))
            session.add(file)
            session.flush()
            self.storage.write(file.id, io.BytesIO(content))
            return file.id

    def create(self, base: Path | str, training_file: str, **fields: Any) -> str:
        hyperparameters = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
        hyperparameters |= fields.pop("hyperparameters", {})
        values = {"seed": 0, "model": "tiny", "base": str(base), "project_id": self.project} | fields
        method = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
        with self.database.write() as session:
            job = Job(training_file=training_file, method=method, **values)
            session.add(job)
            session.flush()
            append_event(session, job.id, f"Created fine-tuning job: {job.id}")
            return job.id

    def job(self, id: str) -> Job:
        with self.database.read() as session:
            return session.scalars(select(Job).where(Job.id == id)).one()

    def ask(self, id: str, verb: str) -> None:
        with self.database.write() as session:
            {"cancel": cancel, "pause": pause, "resume": resume}[verb](session, session.scalars(
                select(Job).where(Job.id == id)).one())  # fmt: skip

    def events(self, id: str) -> list[JobEvent]:
        """Oldest first."""
        with self.database.read() as session:
            return list(session.scalars(select(JobEvent).where(JobEvent.job_id == id).order_by(JobEvent.seq)))

    def messages(self, id: str) -> list[str]:
        return [event.message for event in self.events(id)]

    def metrics(self, id: str) -> list[dict[str, Any]]:
        return [event.data for event in self.events(id) if event.type == "metrics"]

    def checkpoints(self, id: str) -> list[Checkpoint]:
        """Oldest first."""
        with self.database.read() as session:
            return list(session.scalars(select(Checkpoint).where(Checkpoint.job_id == id).order_by(Checkpoint.seq)))

    def model(self, name: str) -> Model:
        with self.database.read() as session:
            return session.scalars(select(Model).where(Model.id == name)).one()

    def wait_until(self, condition: Callable[[], Any], *, patience: float = PATIENCE_SECONDS) -> None:
        deadline = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < deadline, "it takes too long"
            time.sleep(0.05)

    def wait_for(self, id: str, *statuses: str) -> Job:
        self.wait_until(lambda: self.job(id).status in (statuses or OVER))
        return self.job(id)

    def run(self, id: str) -> RunFolder:
        return RunFolder(self.settings.runs / id)

    def steps(self, id: str) -> int:
        """Steps done, as the run's own folder has them."""
        try:
            return max((metric.step for metric in self.run(id).metrics()), default=0)
        except FileNotFoundError:
            return 0

    def trainer(self, id: str) -> int:
        """The number of the process that trains the job, or did last."""
        path = self.settings.home / "work" / id / "trainer.json"
        return int(json.loads(path.read_bytes())["pid"]) if path.exists() else 0

    # ---- as a worker

    def desk(self) -> Desk:
        program = NULL_TRAINER if self.settings.conformance_fixtures else TRAINER
        return Desk(self.settings, self.database, self.storage, "cpu", program, threading.Event())

    def work_here(self, desk: Desk | None = None) -> None:
        """Carries out all that waits, in this process."""
        desk = desk or self.desk()
        while any(take(desk, lane, "here") for lane in LANES):
            pass

    def start_worker(self, **environment: str) -> subprocess.Popen[bytes]:
        with (self.settings.home / "worker.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "residency.server.worker", str(self.settings.home)],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=os.environ | environment,
            )  # fmt: skip

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        process = self.start_worker()
        try:
            yield process
        finally:
            end(process)

    def log(self) -> str:
        return (self.settings.home / "worker.log").read_text()


def end(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> int:
    process.send_signal(number)
    try:
        return process.wait(60)
    finally:
        process.kill()
        process.wait()
        if process.stdin:
            process.stdin.close()
