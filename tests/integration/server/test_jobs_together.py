"""Jobs on one base train in one process: each with the result it has alone, and each ends when it ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from residency.server.database.queue import claim
from residency.server.database.tables import Job
from residency.server.worker import LANES, take
from residency.server.worker_fit import take_along
from tests.e2e.tiny import make_model_folder, rows
from tests.integration.server.rig import Home, jsonl

SETTINGS: dict[str, Any] = {"speed": {"threads": 1, "precision": "fp32"}}
LONG, SHORT = {"n_epochs": 8, "batch_size": 2}, {"n_epochs": 2, "batch_size": 2}
TRAINING = LANES[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = Home(tmp_path_factory.mktemp("home"))
    yield made
    made.close()


def create(home: Home, model: Path, *, seed: int = 0, asked: dict[str, Any] = SHORT, **settings: Any) -> str:
    """A job that waits to be trained: its files are checked."""
    return home.create(model, home.upload(jsonl(rows(30, start=seed))), seed=seed, status="queued",
                       hyperparameters=asked, extensions={"settings": SETTINGS | settings})  # fmt: skip


@contextmanager
def training(home: Home) -> Iterator[None]:
    """One turn of a worker's lane for training, beside this block; no jobs are left when it is over."""
    desk = home.desk()
    turn = threading.Thread(target=take, args=(desk, TRAINING, "here"))
    turn.start()
    try:
        yield
    finally:
        turn.join()


@pytest.fixture(scope="module")
def alone(home: Home, model: Path) -> dict[int, str]:
    """Each of the long jobs, by its seed, in a process of its own."""
    jobs = {}
    for seed in (1, 2):
        jobs[seed] = create(home, model, seed=seed, asked=LONG)
        assert take(home.desk(), TRAINING, "here")
    return jobs


def assert_same(home: Home, job: str, other: str) -> None:
    """To the bit, and told once."""
    assert home.job(job).status == "succeeded", home.job(job).error
    ours, theirs = (home.run(one) / "adapter/adapter_model.safetensors" for one in (job, other))
    assert ours.read_bytes() == theirs.read_bytes()
    assert home.metrics(job) == home.metrics(other)
    assert home.job(job).trained_tokens == home.job(other).trained_tokens
    assert len(home.checkpoints(job)) == len(home.checkpoints(other))
    assert home.messages(job).count("The job has successfully completed") == 1


def test_they_share_a_process_and_have_the_results_that_each_has_alone(
    home: Home, model: Path, alone: dict[int, str]
) -> None:
    jobs = {seed: create(home, model, seed=seed, asked=LONG) for seed in alone}
    with training(home):
        home.wait_for(jobs[1])
        assert home.job(jobs[2]).status == "running", "each is told of its end at once"
    for seed, job in jobs.items():
        assert_same(home, job, alone[seed])
        assert "Trained in one process with 1 other job on the same base" in home.messages(job)
    assert len({home.trainer(job) for job in jobs.values()}) == 1
    assert {home.job(job).attempt for job in jobs.values()} == {1}


@pytest.mark.slow
def test_a_killed_trainer_takes_up_each_where_it_was(home: Home, model: Path, alone: dict[int, str]) -> None:
    jobs = {seed: create(home, model, seed=seed, asked=LONG) for seed in alone}
    with training(home):
        for seed in alone:
            home.wait_until(lambda: home.steps(jobs[seed]) >= 40)  # noqa: B023
            with suppress(ProcessLookupError):
                os.killpg(home.trainer(jobs[seed]), signal.SIGKILL)
    for seed, job in jobs.items():
        assert_same(home, job, alone[seed])
        assert "resumed" in [event.kind for event in home.run(job).events()]


@pytest.mark.slow
def test_one_that_is_cancelled_or_paused_or_fails_leaves_the_others_going(
    home: Home, model: Path, alone: dict[int, str]
) -> None:
    lost = create(home, model, train={"learning_rate": 1e30})
    whole = create(home, model, seed=1, asked=LONG)
    cancelled, paused = create(home, model, asked=LONG), create(home, model, asked=LONG)
    with training(home):
        home.wait_for(lost)
        home.wait_until(lambda: home.steps(whole) >= 20)
        home.ask(cancelled, "cancel")
        assert home.wait_for(cancelled).status == "cancelled"
        home.ask(paused, "pause")
        home.wait_for(paused, "paused")
        assert home.job(whole).status == "running"
    error = home.job(lost).error
    assert error is not None
    assert error["code"] in ("not_finite", "loss_exploded")
    assert_same(home, whole, alone[1])
    assert not home.run(cancelled).path.exists(), "it had not begun"
    home.ask(paused, "resume")
    assert take(home.desk(), TRAINING, "here")
    assert home.job(paused).status == "succeeded"


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "status"), [("cancel", "cancelled"), ("pause", "paused")])
def test_the_one_that_trains_can_be_stopped_too(
    home: Home, model: Path, alone: dict[int, str], verb: str, status: str
) -> None:
    stopped, whole = create(home, model, asked=LONG), create(home, model, seed=1, asked=LONG)
    with training(home):
        home.wait_until(lambda: home.steps(stopped) >= 20)
        home.ask(stopped, verb)
        home.wait_for(stopped, status)
        process = psutil.Process(home.trainer(whole))
        home.wait_until(lambda: home.steps(whole) >= 1)
        assert process.is_running(), "the others keep their trainer"
    assert_same(home, whole, alone[1])
    if verb == "pause":
        assert home.checkpoints(stopped)[-1].step_number == home.steps(stopped)
        home.ask(stopped, "cancel")


def test_what_does_not_fit_is_left_for_later(home: Home, model: Path, tmp_path: Path) -> None:
    other_base = make_model_folder(tmp_path / "other", seed=1)
    first = create(home, model)
    fits = create(home, model, adapter={"rank": 4})
    others = [
        create(home, other_base),
        create(home, model, adapter={"kind": "full"}),
        create(home, model, adapter={"dropout": 0.1}),
        create(home, model, speed={"threads": 1, "precision": "bf16"}),
        create(home, model, train={"learning_rate": "search"}),
    ]
    held = create(home, model)
    with home.database.write() as session:
        assert claim(session, Job, "another worker", ("queued",), [held])
        mine = claim(session, Job, "here", ("queued",), [first])
    assert mine is not None
    taken = take_along(home.desk(), mine)
    assert [one.id for one in taken] == [fits]
    assert {home.job(one).worker for one in others} == {None}
    assert home.job(held).worker == "another worker"
    for job in (first, fits, held, *others):
        home.ask(job, "cancel")
