"""Whatever is killed, stopped or lost, a job ends once, with the weights of a job that nothing happened to."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from sqlalchemy import update

from residency.server.database.tables import Job
from tests.e2e.tiny import make_model_folder, rows
from tests.integration.server.rig import Home, end, jsonl

PLAIN = {"settings": {"speed": {"threads": 1, "precision": "fp32"}}}
STEPS = 300
"""Some seconds of training: 20 epochs of 15 steps."""
DONE = "The job has successfully completed"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = Home(tmp_path_factory.mktemp("home"))
    yield made
    made.close()


def create(home: Home, model: Path) -> str:
    return home.create(model, home.upload(jsonl(rows(30))), extensions=PLAIN,
                       hyperparameters={"n_epochs": 20, "batch_size": 2})  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(home: Home, model: Path) -> str:
    job = create(home, model)
    home.work_here()
    assert home.job(job).status == "succeeded"
    return job


def assert_as_undisturbed(home: Home, job: str, undisturbed: str) -> None:
    """To the bit, and told once."""
    assert home.job(job).status == "succeeded", home.job(job).error
    ours, theirs = (home.run(one) / "adapter/adapter_model.safetensors" for one in (job, undisturbed))
    assert ours.read_bytes() == theirs.read_bytes()
    assert home.metrics(job) == home.metrics(undisturbed), "each step is told once, with the same values"
    messages = home.messages(job)
    assert messages.count("Fine-tuning job started") == messages.count(DONE) == 1
    assert [one.step_number for one in home.checkpoints(job)] == [STEPS - 30, STEPS - 15, STEPS]
    ours_csv, theirs_csv = (home.storage.open(home.job(one).result_files[0]) for one in (job, undisturbed))
    with ours_csv, theirs_csv:
        assert ours_csv.read() == theirs_csv.read()
    assert home.job(job).trained_tokens == home.job(undisturbed).trained_tokens


class Workers:
    """One worker at a time, started again when it was killed, as the supervisor does."""

    def __init__(self, home: Home) -> None:
        self.home, self.process = home, home.start_worker()

    def kill(self) -> None:
        end(self.process, signal.SIGKILL)
        self.process = self.home.start_worker()

    def stop(self) -> int:
        return end(self.process)


@pytest.fixture
def workers(home: Home) -> Iterator[Workers]:
    started = Workers(home)
    yield started
    started.stop()


def kill_trainer(home: Home, job: str) -> None:
    if (pid := home.trainer(job)) and psutil.pid_exists(pid):
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def kill_at_random(home: Home, workers: Workers, job: str, kills: int, seed: int) -> int:
    """Kills the worker or its trainer at random moments of the job; how many kills found it unfinished."""
    random = np.random.default_rng(seed)
    for number in range(kills):
        before, patience = home.steps(job), time.monotonic() + 30
        wanted = before + int(random.integers(0, 2 * STEPS // kills))
        while home.steps(job) < wanted and time.monotonic() < patience and home.job(job).finished_at is None:
            time.sleep(0.02)
        time.sleep(random.uniform(0, 0.5))
        if home.job(job).finished_at is not None:
            return number
        if random.integers(2):
            workers.kill()
        else:
            kill_trainer(home, job)
    return kills


@pytest.mark.slow
def test_a_job_survives_kills_of_its_worker_and_its_trainer(
    home: Home, model: Path, undisturbed: str, workers: Workers
) -> None:
    job = create(home, model)
    assert kill_at_random(home, workers, job, kills=4, seed=2) >= 3
    home.wait_for(job)
    assert_as_undisturbed(home, job, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_a_job_survives_twenty_kills_of_its_worker_and_its_trainer(
    home: Home, model: Path, undisturbed: str, workers: Workers, seed: int
) -> None:
    job = create(home, model)
    assert kill_at_random(home, workers, job, kills=20, seed=seed) > 10
    home.wait_for(job)
    assert_as_undisturbed(home, job, undisturbed)


@pytest.mark.slow
def test_a_stop_a_pause_and_a_lost_claim_change_nothing_of_the_result(
    home: Home, model: Path, undisturbed: str, workers: Workers
) -> None:
    job = create(home, model)
    home.wait_until(lambda: home.steps(job) >= 40)
    assert workers.stop() == 0, "the worker waits for the trainer's checkpoint"
    assert home.job(job).status == "running"
    assert home.messages(job)[-1] == "The server stops; training goes on when it is back"
    stopped_at = home.steps(job)
    assert (home.run(job) / f"checkpoints/step-{stopped_at:06d}").is_dir()

    workers.process = home.start_worker()
    home.wait_until(lambda: home.steps(job) >= stopped_at + 20)
    home.ask(job, "pause")
    home.wait_for(job, "paused")
    snapshot = home.checkpoints(job)[-1]
    assert snapshot.step_number == home.steps(job) < STEPS
    assert (Path(home.model(snapshot.name).adapter or "") / "adapter_model.safetensors").is_file()
    assert home.messages(job)[-1] == "Fine-tuning job paused"
    home.ask(job, "resume")
    home.wait_until(lambda: home.steps(job) > snapshot.step_number + 20)

    lost = workers.process
    hang(home, lost, job)
    workers.process = home.start_worker()
    home.wait_for(job)
    lost.send_signal(signal.SIGCONT)
    assert end(lost) == 0
    assert_as_undisturbed(home, job, undisturbed)
    assert f"{job}: another worker has it now" in home.log()


def hang(home: Home, worker: subprocess.Popen[bytes], job: str) -> None:
    """As on a machine that hangs: the lease runs out, and the worker comes back later.

    It is stopped while this transaction holds the database: within one of its own it would keep it from everybody.
    """
    with home.database.write() as session:
        session.execute(update(Job).where(Job.id == job).values(lease_until=0.0))
        worker.send_signal(signal.SIGSTOP)


def lose_the_lease(home: Home, job: str) -> None:
    with home.database.write() as session:
        session.execute(update(Job).where(Job.id == job).values(lease_until=0.0))


def test_a_cancelled_job_stops_its_trainer_and_keeps_what_was_told(home: Home, model: Path, workers: Workers) -> None:
    job = create(home, model)
    home.wait_until(lambda: home.steps(job) >= 20)
    home.ask(job, "cancel")
    assert home.wait_for(job).status == "cancelled"
    assert not psutil.pid_exists(home.trainer(job))
    assert home.messages(job)[-1] == "Fine-tuning job cancelled"
    assert home.job(job).fine_tuned_model is None


def test_a_killed_worker_takes_its_trainer_with_it(home: Home, model: Path) -> None:
    worker = home.start_worker()
    job = create(home, model)
    home.wait_until(lambda: home.steps(job) >= 20)
    end(worker, signal.SIGKILL)
    home.wait_until(lambda: not psutil.pid_exists(home.trainer(job)), patience=30)
    assert (home.run(job) / f"checkpoints/step-{home.steps(job):06d}").is_dir(), "it leaves a checkpoint"
    lose_the_lease(home, job)
    home.ask(job, "cancel")
