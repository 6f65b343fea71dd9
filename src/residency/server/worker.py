"""The worker process: takes work from the database and carries it out. It imports no torch.

    python -m residency.server.worker HOME [--device cuda:0]

It works in four lanes at once, each one piece at a time: files are checked, evals run and batches answered
while a job trains.
Asked to end, it has the trainer leave a checkpoint, and gives its work back.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import psutil
from sqlalchemy import select, update

from residency.errors import ResourceError
from residency.server import batches, evaluation
from residency.server.database.connect import Database, open_database
from residency.server.database.queue import W, claim, lease_device, release_device
from residency.server.database.tables import Batch, EvalRun, Job
from residency.server.storage import Storage
from residency.server.supervise_settings import read_settings
from residency.server.supervise_watch import end_with_parent
from residency.server.worker_attempt import Desk
from residency.server.worker_child import NULL_TRAINER, SECONDS_TO_STOP, TRAINER
from residency.server.worker_train import train
from residency.server.worker_validate import validate

log = logging.getLogger(__name__)
IDLE_SECONDS = 0.5
"""Between two looks for work, where there was none."""


@dataclass(frozen=True, slots=True)
class Lane(Generic[W]):
    """One kind of work: where it waits, and what does it."""

    name: str
    table: type[W]
    statuses: tuple[str, ...]
    carry_out: Callable[[Desk, W], None]
    needs_device: bool = False


LANES: tuple[Lane[Any], ...] = (
    Lane("files", Job, ("validating_files",), validate),
    Lane("training", Job, ("queued", "running", "pausing"), train, needs_device=True),
    Lane("evals", EvalRun, ("queued", "in_progress"), evaluation.carry_out),
    Lane("batches", Batch, ("validating", "in_progress", "finalizing", "cancelling"), batches.carry_out),
)


def main(home: Path, device: str) -> int:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    for noisy in ("alembic", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    settings = read_settings(home)
    database = open_database(settings.database_url)
    program = NULL_TRAINER if settings.conformance_fixtures else TRAINER
    storage = Storage(settings.files_url, settings.home.absolute() / "cache")
    desk = Desk(settings, database, storage, device, program, threading.Event())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: desk.stopping.set())
    end_with_parent(SECONDS_TO_STOP)
    free_what_the_dead_hold(database)
    name = worker_name()
    lanes = [threading.Thread(target=work, args=(desk, lane, name), name=lane.name) for lane in LANES]
    for lane in lanes:
        lane.start()
    log.info("ready for work on %s", device)
    for lane in lanes:
        while lane.is_alive():  # a signal that another thread was given is heard when this one wakes
            lane.join(IDLE_SECONDS)
    database.close()
    return 0


def work(desk: Desk, lane: Lane[Any], name: str) -> None:
    """One piece after the other, until the worker is to end. A bug in one piece must not stop the others."""
    while not desk.stopping.is_set():
        try:
            found = take(desk, lane, name)
        except ResourceError as error:
            log.error("no work can be taken: %s", error)
            found = False
        except Exception:
            log.exception("a bug of ours, in the lane of %s", lane.name)
            found = False
        if not found:
            desk.stopping.wait(IDLE_SECONDS)


def take(desk: Desk, lane: Lane[W], name: str) -> bool:
    """Claims a piece of the lane's work and carries it out; false where there is none, or no device for it."""
    if not waiting(desk, lane):
        return False
    device = desk.leased_device if lane.needs_device else None
    with desk.database.write() as session:
        if device and not lease_device(session, device, "training", name):
            return False
        found = claim(session, lane.table, name, lane.statuses)
    try:
        if found is not None:
            log.info("%s: %s", found.id, lane.name)
            lane.carry_out(desk, found)
    finally:
        if device:
            with desk.database.write() as session:
                release_device(session, device, "training", name)
    return found is not None


def waiting(desk: Desk, lane: Lane[W]) -> bool:
    """A look without a lock: an idle worker keeps nobody from writing."""
    free = (lane.table.status.in_(lane.statuses), lane.table.lease_until < time.time())
    with desk.database.read() as session:
        return session.scalar(select(lane.table.seq).where(*free).limit(1)) is not None


# ---- who is alive


def worker_name() -> str:
    """Tells this process from all others, also from one of the same number after a restart."""
    return f"{socket.gethostname()}|{os.getpid()}|{psutil.Process().create_time()}"


def is_dead(name: str) -> bool:
    """Only what is known for sure: of a worker on another machine, nothing is."""
    host, _, rest = name.partition("|")
    pid, _, born = rest.partition("|")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        return str(psutil.Process(int(pid)).create_time()) != born
    except psutil.NoSuchProcess:
        return True


def free_what_the_dead_hold(database: Database) -> None:
    """Work of workers that are gone need not wait for its lease to run out."""
    for table in (Job, EvalRun, Batch):
        with database.write() as session:
            holders = session.scalars(select(table.worker).where(table.lease_until > time.time()).distinct()).all()
            dead = [name for name in holders if name and is_dead(name)]
            if dead:
                session.execute(update(table).where(table.worker.in_(dead)).values(lease_until=0.0))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m residency.server.worker")
    parser.add_argument("home", type=Path)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    sys.exit(main(given.home, given.device))
