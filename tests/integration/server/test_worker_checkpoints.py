"""Which checkpoints of a run become models, while it runs, is paused, and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from residency.config.model import Train
from residency.server.database.queue import claim
from residency.server.database.tables import Job
from residency.server.worker_attempt import Attempt
from residency.server.worker_follow import Plan
from residency.server.worker_job import NEW_NOTES
from residency.server.worker_pulse import Pulse
from residency.server.worker_tell import name_checkpoint, new_checkpoints, write_down
from tests.integration.server.rig import Home

PLAN = Plan(Train.model_validate({
    "epochs": 10.0, "batch_size": 2, "micro_batch_tokens": 64, "learning_rate": 1e-3, "eval_every_steps": "epoch",
    "save_every_steps": "epoch"}), {}, rows=10, held_out=0, adapter="lora")  # fmt: skip
"""Epochs end at 5, 10, 15 ... 50."""


@pytest.fixture
def attempt(tmp_path: Path) -> Iterator[Attempt]:
    home = Home(tmp_path / "home", null=True)
    home.create("nothing", "file-1", status="running")
    with home.database.write() as session:
        job = claim(session, Job, "here", ("running",))
    assert job is not None
    yield Attempt(home.desk(), job, Pulse(home.database, job, None), dict(NEW_NOTES))
    home.close()


def save(attempt: Attempt, *steps: int) -> None:
    """As the trainer does."""
    for step in steps:
        folder = attempt.run / f"checkpoints/step-{step:06d}"
        folder.mkdir(parents=True)
        for name in ("adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors"):
            (folder / name).write_text(str(step))


def tell(attempt: Attempt, step: int) -> list[str]:
    """The steps that are models after this; a second look changes nothing."""
    if fresh := new_checkpoints(attempt, PLAN, step):
        write_down(attempt, [], dict(attempt.notes), {}, fresh)
    assert new_checkpoints(attempt, PLAN, step) == {}
    folders = sorted(path.name for path in (attempt.run / "epochs").glob("*"))
    assert folders == [f"step-{int(number):06d}" for number in attempt.notes["checkpoints"]]
    return list(attempt.notes["checkpoints"])


def test_the_two_newest_ends_of_epochs_are_models(attempt: Attempt) -> None:
    save(attempt, 5)
    assert tell(attempt, 5) == ["5"]
    save(attempt, 10, 15, 20)
    assert tell(attempt, 17) == ["10", "15"], "step 20 was not told yet"
    assert tell(attempt, 20) == ["15", "20"]
    assert not (attempt.run / "epochs/step-000015/optimizer.safetensors").exists()


def test_the_last_step_is_the_final_model_and_no_checkpoint_of_its_own(attempt: Attempt) -> None:
    save(attempt, 45, 50)
    assert tell(attempt, 50) == ["45"]


def test_a_checkpoint_outside_the_ends_of_epochs_is_none(attempt: Attempt) -> None:
    save(attempt, 5, 7)
    assert tell(attempt, 8) == ["5"]


def test_a_pause_adds_its_own_and_what_came_before_does_not_come_back(attempt: Attempt) -> None:
    save(attempt, 5, 10)
    tell(attempt, 10)
    save(attempt, 12)
    (attempt.run / "epochs/step-000012").mkdir()
    write_down(attempt, [], dict(attempt.notes), {}, {"12": name_checkpoint(attempt, 12)})
    assert tell(attempt, 12) == ["10", "12"]
    save(attempt, 15)
    assert tell(attempt, 15) == ["12", "15"]
