"""`kill -9` of API, worker and trainer, at twenty random moments each, while clients use the server."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from openai import OpenAI
from sqlalchemy import func, select

from residency.server.conformance import JOB
from residency.server.database.connect import open_database
from residency.server.database.tables import Checkpoint, Job, JobEvent, Model
from residency.server.trainer_null import ENDS, STARTS, STEPS
from tests.e2e.server.serving import Server, serve, steps, wait_until
from tests.e2e.tiny import rows
from tests.integration.server.rig import OVER, jsonl

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

KILLS = 20
CLIENTS = 4
IMPATIENT = "from residency.server import supervise; supervise.MOST_BACKOFF_SECONDS = 1.0; "
"""Who dies twenty times within minutes would be started again later and later."""
SAID_ONCE = ("Fine-tuning job started", "New fine-tuned model created", "The job has successfully completed")


def kill_trainer(server: Server) -> bool:
    """The one that trains at this moment; false where none does."""
    with suppress(psutil.Error):
        for process in psutil.Process(server.process.pid).children(recursive=True):
            if "residency.server.trainer_null" in process.cmdline():
                process.kill()
                return True
    return False


def kill(server: Server, name: str) -> None:
    if name == "trainer":
        wait_until(lambda: kill_trainer(server))
    else:
        wait_until(lambda: server.child(name) is not None)
        server.kill(name)


@contextmanager
def busy(clients: int, work: Callable[[threading.Event], Any]) -> Iterator[list[Future[Any]]]:
    """So many clients at work until the block is left; what they meet is theirs to raise."""
    stopping = threading.Event()
    with ThreadPoolExecutor(clients) as pool:
        done = [pool.submit(work, stopping) for _ in range(clients)]
        try:
            yield done
        finally:
            stopping.set()


def train_one_after_the_other(client: OpenAI, file: str, stopping: threading.Event) -> list[str]:
    jobs = []
    while not stopping.is_set():
        job = client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file).id
        jobs.append(job)
        wait_until(lambda job=job: client.fine_tuning.jobs.retrieve(job).status in OVER)  # type: ignore[misc]
        assert steps(client, job) == list(range(STEPS, 0, -1))
    return jobs


def test_no_job_is_lost_trained_twice_or_stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIDENCY_NULL_TRAINING_SECONDS", "0.4")
    moments, home = random.Random(1), tmp_path / "home"
    victims = ["api", "worker", "trainer"] * KILLS
    moments.shuffle(victims)
    with serve(home, "--conformance-fixtures", before=IMPATIENT) as server:
        client = server.client()
        file = client.files.create(file=("train.jsonl", jsonl(rows(10))), purpose="fine-tune").id
        began = time.monotonic()
        with busy(CLIENTS, lambda stopping: train_one_after_the_other(client, file, stopping)) as clients:
            for name in victims:
                time.sleep(moments.uniform(0.2, 2.0))
                kill(server, name)
            killed_within = time.monotonic() - began
        told = [job for one in clients for job in one.result()]
        assert server.stop() == 0
    made = assert_each_ended_once(home)
    assert set(told) <= set(made), "a client knows a job that is not there"
    repeated = sum(count_lines(home / "work" / job / STARTS) > 1 for job in made)
    print(f"{len(victims)} kills within {killed_within:.0f} s; {len(made)} jobs, of which {repeated} began again; "
          f"{len(made) - len(told)} whose answer a client did not get")  # fmt: skip
    assert repeated, "no kill met a job"


def assert_each_ended_once(home: Path) -> list[str]:
    database = open_database(f"sqlite:///{home / 'server.db'}")
    with database.read() as session:
        jobs = session.scalars(select(Job).where(Job.id != JOB)).all()
        assert {job.status for job in jobs} == {"succeeded"}
        for message in SAID_ONCE:
            said = select(JobEvent.job_id, func.count()).where(JobEvent.message.startswith(message))
            counts = session.execute(said.group_by(JobEvent.job_id)).all()
            assert {tuple(one) for one in counts} == {(job.id, 1) for job in jobs}, message
        for table in (Model, Checkpoint):
            found = session.execute(select(table.job_id, func.count()).where(table.job_id.is_not(None))
                                    .group_by(table.job_id)).all()  # fmt: skip
            assert {tuple(one) for one in found} == {(job.id, 1) for job in jobs}
    database.close()
    assert {count_lines(home / "work" / job.id / ENDS) for job in jobs} == {1}, "trained to its end once"
    return [job.id for job in jobs]


def count_lines(path: Path) -> int:
    return len(path.read_text().splitlines())
