"""Work goes to one worker at a time, and whoever lost it writes nothing more."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, update

from residency.errors import ConfigError, ResourceError
from residency.server.database import queue
from residency.server.database.connect import Database, open_database
from residency.server.database.tables import Checkpoint, Job, JobEvent, Model, Project, Table


def make_jobs(database: Database, count: int, status: str = "queued") -> list[str]:
    with database.write() as session:
        project = Project(name=f"project {time.time()}")
        session.add(project)
        session.flush()
        jobs = [
            Job(
                project_id=project.id, status=status, model="m", base="m", training_file="file-1", seed=0,
                method={"type": "supervised"},
            )
            for _ in range(count)
        ]  # fmt: skip
        session.add_all(jobs)
    return [job.id for job in jobs]


def expire_leases(database: Database) -> None:
    with database.write() as session:
        session.execute(update(Job).values(lease_until=0.0))


def report_and_end(database: Database, job: Job) -> None:
    with database.write() as session:
        queue.append_event(session, job.id, "from the dead")
        queue.release(session, job, "succeeded", fine_tuned_model="wrong")


def test_the_migrations_make_the_tables(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []


def test_a_database_is_opened_again_as_it_was(database: Database, database_url: str) -> None:
    made = make_jobs(database, 1)
    again = open_database(database_url)
    with again.read() as session:
        assert session.scalars(select(Job.id)).all() == made
    again.close()


def test_each_job_goes_to_one_worker_though_many_ask_at_once(database: Database) -> None:
    made = make_jobs(database, 60)

    def work(name: str) -> list[str]:
        mine = []
        while True:
            with database.write() as session:
                job = queue.claim(session, Job, name, ("queued",))
            if job is None:
                return mine
            mine.append(job.id)

    with ThreadPoolExecutor(8) as pool:
        taken = [id for ids in pool.map(work, [f"worker {n}" for n in range(8)]) for id in ids]
    assert sorted(taken) == sorted(made)


def test_the_oldest_goes_first_and_other_statuses_wait(database: Database) -> None:
    first, second = make_jobs(database, 2)
    waiting = make_jobs(database, 1, status="paused")
    with database.write() as session:
        taken = [queue.claim(session, Job, "w", ("queued", "running")) for _ in range(3)]
    assert [job and job.id for job in taken] == [first, second, None]
    assert waiting


def test_a_claim_may_be_for_some_jobs_alone(database: Database) -> None:
    _, second, third = make_jobs(database, 3)
    for wanted in (second, None):
        with database.write() as session:
            found = queue.claim(session, Job, "w", ("queued",), [second, third] if wanted else [second])
        assert (found.id if found else None) == wanted


def test_work_without_a_heartbeat_is_taken_over_and_the_first_worker_writes_nothing_more(database: Database) -> None:
    make_jobs(database, 1)
    with database.write() as session:
        first = queue.claim(session, Job, "a", ("queued",))
    assert first is not None
    with database.write() as session:
        assert queue.claim(session, Job, "b", ("queued",)) is None
    expire_leases(database)
    with database.write() as session:
        second = queue.claim(session, Job, "a", ("queued",))  # a worker of the same name: the attempt tells them apart
    assert second is not None
    assert (first.attempt, second.attempt) == (1, 2)
    with pytest.raises(queue.LeaseLost):
        report_and_end(database, first)
    with database.write() as session:
        queue.release(session, second, "succeeded", fine_tuned_model="right")
    with database.read() as session:
        assert session.scalars(select(Job.fine_tuned_model)).one() == "right"
        assert session.scalars(select(JobEvent)).all() == []


def test_the_log_says_how_work_ended_and_not_what_it_was_about(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (made,) = make_jobs(database, 1)
    with database.write() as session:
        job = queue.claim(session, Job, "a", ("queued",))
        assert job is not None
        queue.release(session, job, "failed", error={"code": "invalid_file_format", "message": "row 3: secret"})
    assert caplog.messages == [f"{made}: failed (invalid_file_format)"]


def test_a_heartbeat_tells_what_the_client_wants(database: Database) -> None:
    make_jobs(database, 1)
    with database.write() as session:
        job = queue.claim(session, Job, "a", ("queued",))
        assert job is not None
        assert queue.heartbeat(session, job) is None
    with database.write() as session:
        session.execute(update(Job).values(wanted="cancel"))
    with database.write() as session:
        assert queue.heartbeat(session, job) == "cancel"


def test_a_checkpoint_is_recorded_once(database: Database) -> None:
    make_jobs(database, 1)
    with database.write() as session:
        job = queue.claim(session, Job, "a", ("queued",))
        assert job is not None
        for _ in range(2):
            queue.record_checkpoint(session, job, "ft:m:org::12345678:ckpt-step-5", "adapter", step=5, metrics={})
    with database.read() as session:
        assert len(session.scalars(select(Checkpoint)).all()) == 1
        assert session.scalars(select(Model.adapter)).one() == "adapter"


def test_a_device_has_one_trainer_and_one_inference_process(database: Database) -> None:
    with database.write() as session:
        assert queue.lease_device(session, "cuda:0", "training", "a")
        assert queue.lease_device(session, "cuda:0", "training", "a")
        assert not queue.lease_device(session, "cuda:0", "training", "b")
        assert queue.lease_device(session, "cuda:0", "inference", "b")
        assert queue.lease_device(session, "cuda:1", "training", "b")
        queue.release_device(session, "cuda:0", "training", "a")
        assert queue.lease_device(session, "cuda:0", "training", "b")


@pytest.mark.parametrize("address", ["mysql://host/name", "no address"])
def test_an_address_that_is_no_database_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="database"):
        open_database(address)


def test_a_database_that_is_not_there_is_said_so() -> None:
    with pytest.raises(ResourceError, match="the database refused"):
        open_database("postgresql://nobody@127.0.0.1:1/nothing")
