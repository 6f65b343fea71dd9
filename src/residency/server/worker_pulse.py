"""Keeps a piece of work while it is carried out, and hears what the client wants of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from residency.errors import ResourceError
from residency.server.database.connect import Database
from residency.server.database.queue import LEASE_SECONDS, LeaseLost, heartbeat, lease_device
from residency.server.database.tables import Batch, EvalRun, Job

log = logging.getLogger(__name__)
BEAT_SECONDS = 1.0
"""Between two heartbeats: a cancel or a pause is heard this fast."""


class Pulse:
    """`wanted` is what the client asked for; `lost` means that the work is no longer ours: nothing may be written."""

    def __init__(self, database: Database, work: Job | EvalRun | Batch, device: str | None) -> None:
        self.database, self.work, self.device = database, work, device
        self.wanted: str | None = None
        self.lost = False
        self.kept_at = time.monotonic()
        self.over = threading.Event()

    def beat(self) -> None:
        """One heartbeat. A database that does not answer is tried again until the lease has run out."""
        try:
            with self.database.write() as session:
                self.wanted = heartbeat(session, self.work) or self.wanted
                if self.device:
                    lease_device(session, self.device, "training", str(self.work.worker))
            self.kept_at = time.monotonic()
        except LeaseLost:
            self.lost = True
        except ResourceError as error:
            log.error("%s: no heartbeat: %s", self.work.id, error.message)
            self.lost = time.monotonic() - self.kept_at > LEASE_SECONDS

    def run(self) -> None:
        while not self.over.wait(BEAT_SECONDS) and not self.lost:
            self.beat()


@contextmanager
def pulse(database: Database, work: Job | EvalRun | Batch, device: str | None = None) -> Iterator[Pulse]:
    """Heartbeats in a thread of their own, so that long work does not lose its lease."""
    beating = Pulse(database, work, device)
    beating.beat()
    thread = threading.Thread(target=beating.run, name=f"pulse of {work.id}", daemon=True)
    thread.start()
    try:
        yield beating
    finally:
        beating.over.set()
        thread.join()
