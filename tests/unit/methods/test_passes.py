"""Runs on one engine: one after another they are each the run alone to the bit, side by side up to rounding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from peft import LoraConfig

from residency.config.model import Train
from residency.engine.engine import Engine
from residency.engine.speed import Speed
from residency.errors import Interrupted, TrainingError
from residency.methods import sft
from residency.methods.passes import Run, together
from residency.records import RunFolder
from tests.conftest import rows_with_a_shared_start, tiny_llama

ROWS = rows_with_a_shared_start(24)
STEPS = {"short": 6, "long": 12}
RANKS = {"short": 4, "long": 5}


def settings(steps: int, rate: float = 1e-2) -> Train[object]:
    return Train.model_validate({
        "epochs": 100.0, "max_steps": steps, "batch_size": 4, "micro_batch_tokens": 100, "learning_rate": rate,
        "eval_every_steps": 5, "save_every_steps": 5, "patience": None, "seed": steps,
    })  # fmt: skip


def new_engine(shared: bool | None = None, fused: bool | None = None) -> Engine:
    return Engine(tiny_llama(), micro_batch_tokens=100, speed=Speed(shared=shared, fused=fused))


def record(folder: Path, name: str) -> RunFolder:
    (folder / name).mkdir(parents=True)
    return RunFolder(folder / name)


def training(engine: Engine, name: str, run: RunFolder, ended: list[str], stop: Callable[[], str | None] = lambda: None,
             rate: float = 1e-2) -> Run[None]:  # fmt: skip
    """As in a trainer: its adapter comes and goes with it, it catches its own errors and notes its end."""
    engine.add_adapter(name, LoraConfig(r=RANKS[name], target_modules="all-linear"), seed=3)
    try:
        yield from sft.training(engine, name, ROWS, ROWS[:4], settings(STEPS[name], rate), run, asked_to_stop=stop)
        ended.append(name)
    except (Interrupted, TrainingError) as error:
        ended.append(f"{name}: {error.code}")
    if len(engine.trained) > 1:
        engine.drop_adapter(name)


def losses(run: RunFolder) -> list[tuple[int, str, float]]:
    return [(metric.step, metric.split, metric.loss) for metric in run.metrics()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    folder, found = tmp_path_factory.mktemp("alone"), dict[str, RunFolder]()
    for name in STEPS:
        found[name] = record(folder, name)
        together([training(new_engine(), name, found[name], [])])
    return found


def test_where_passes_save_nothing_the_first_run_ends_first(alone: dict[str, RunFolder], tmp_path: Path) -> None:
    engine, ended = new_engine(), list[str]()
    runs = {name: record(tmp_path, name) for name in ("long", "short")}
    together([training(engine, name, run, ended) for name, run in runs.items()])
    assert ended == ["long", "short"]
    assert {name: losses(run) for name, run in runs.items()} == {name: losses(alone[name]) for name in runs}


@pytest.mark.parametrize("fused", [False, True])
def test_side_by_side_each_ends_when_it_ends(fused: bool, alone: dict[str, RunFolder], tmp_path: Path) -> None:
    engine, ended = new_engine(shared=True, fused=fused), list[str]()
    runs = {name: record(tmp_path, name) for name in ("long", "short")}
    together([training(engine, name, run, ended) for name, run in runs.items()])
    assert ended == ["short", "long"]
    assert engine.shares_passes
    assert engine.trained == ["long"]
    for name, run in runs.items():
        ours, theirs = losses(run), losses(alone[name])
        assert [one[:2] for one in ours] == [one[:2] for one in theirs]
        assert [one[2] for one in ours] == pytest.approx([one[2] for one in theirs], rel=1e-4)


def test_one_that_loses_its_loss_leaves_the_others_going(alone: dict[str, RunFolder], tmp_path: Path) -> None:
    engine, ended = new_engine(shared=True), list[str]()
    runs = {name: record(tmp_path, name) for name in STEPS}
    lost = training(engine, "short", runs["short"], ended, rate=1e30)
    together([lost, training(engine, "long", runs["long"], ended)])
    assert ended[0].startswith("short: ")
    assert ended[1] == "long"
    assert losses(runs["long"])[-1][2] == pytest.approx(losses(alone["long"])[-1][2], rel=1e-4)


def test_one_that_is_asked_to_stop_leaves_a_checkpoint_and_the_others_going(tmp_path: Path) -> None:
    engine, ended = new_engine(shared=True), list[str]()
    runs = {name: record(tmp_path, name) for name in STEPS}
    stopped = training(engine, "long", runs["long"], ended, lambda: "enough" if ended else None)
    together([stopped, training(engine, "short", runs["short"], ended)])
    assert ended == ["short", "long: interrupted"]
    assert (runs["long"] / "checkpoints/step-000007").is_dir(), "at its next step"
