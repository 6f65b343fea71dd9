"""Eight workers and many queued jobs: each is trained once, whichever database holds them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from residency.server.database.tables import Job, JobEvent
from residency.server.trainer_null import ENDS, STARTS, STEPS
from residency.server.worker import LANES, work
from residency.server.worker_fit import MOST_TOGETHER
from tests.e2e.tiny import rows
from tests.integration.server.rig import Home, end, jsonl
from tests.unit.server.conftest import postgresql  # noqa: F401  # a fixture

WORKERS = 8


@pytest.fixture(params=["sqlite", "postgresql"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    url = None
    if request.param == "postgresql":
        server = request.getfixturevalue("postgresql")
        server.psql("DROP DATABASE IF EXISTS residency_load WITH (FORCE);")
        server.psql("CREATE DATABASE residency_load;")
        url = str(server.get_uri("residency_load"))
    made = Home(tmp_path / "home", database=url, null=True)
    yield made
    made.close()


def create(home: Home, count: int, status: str) -> list[str]:
    file = home.upload(jsonl(rows(10)))
    return [home.create("nothing", file, status=status) for _ in range(count)]


def unfinished(home: Home) -> int:
    with home.database.read() as session:
        return session.scalar(select(func.count()).where(Job.status != "succeeded")) or 0


def lines(home: Home, job: str, name: str) -> list[str]:
    return (home.settings.home / "work" / job / name).read_text().splitlines()


def assert_each_was_trained_once(home: Home, jobs: list[str]) -> None:
    assert unfinished(home) == 0
    assert {len(lines(home, job, STARTS)) for job in jobs} == {1}
    with home.database.read() as session:
        told = session.execute(select(JobEvent.job_id, JobEvent.type, func.count()).group_by(
            JobEvent.job_id, JobEvent.type)).all()  # fmt: skip
        done = select(func.count()).where(JobEvent.message == "The job has successfully completed")
        assert session.scalar(done) == len(jobs)
    assert {count for _, kind, count in told if kind == "metrics"} == {STEPS}


def test_no_job_is_claimed_by_two_of_eight_workers(home: Home) -> None:
    """Threads stand for processes here, so that the claims meet as often as they can."""
    jobs = create(home, 24, "validating_files")
    desk = home.desk()
    threads = [threading.Thread(target=work, args=(desk, lane, f"worker {number}"))
               for number in range(WORKERS) for lane in LANES[:2]]  # fmt: skip
    for thread in threads:
        thread.start()
    home.wait_until(lambda: unfinished(home) == 0)
    desk.stopping.set()
    for thread in threads:
        thread.join()
    assert_each_was_trained_once(home, jobs)
    assert {home.job(job).attempt for job in jobs} == {2}, "once for its files, once to train"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_thousand_jobs_and_eight_workers_of_which_some_are_killed(home: Home) -> None:
    jobs, kills = create(home, 2000, "queued"), 3
    workers = [home.start_worker() for _ in range(WORKERS)]
    began = time.monotonic()
    try:
        for number in range(kills):
            home.wait_until(lambda: unfinished(home) <= 1900 - 500 * number, patience=3000)  # noqa: B023
            end(workers[number], signal.SIGKILL)
            workers[number] = home.start_worker()
        home.wait_until(lambda: unfinished(home) == 0, patience=3000)
    finally:
        for worker in workers:
            end(worker)
    print(f"{len(jobs)} jobs in {time.monotonic() - began:.0f} s")
    assert {len(lines(home, job, ENDS)) for job in jobs} == {1}, "each is trained to its end once"
    again = [job for job in jobs if home.job(job).attempt > 1]
    assert len(again) <= kills * MOST_TOGETHER, "nothing is claimed twice but what a killed worker held"
    assert all(len(lines(home, job, STARTS)) == 1 for job in set(jobs) - set(again))
    with home.database.read() as session:
        done = select(func.count()).where(JobEvent.message == "The job has successfully completed")
        assert session.scalar(done) == len(jobs)
