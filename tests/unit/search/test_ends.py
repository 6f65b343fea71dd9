"""Where candidates share passes, the last two go on until they are plainly apart, to their ends where it may matter."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from residency.config.model import Train
from residency.data.messages import Rendered
from residency.engine.engine import Engine
from residency.engine.speed import Speed
from residency.errors import Interrupted
from residency.methods import sft
from residency.records import RunFolder
from residency.search import arms as arms_of_a_search
from residency.search import halving
from residency.search.arms import Arm, Taken
from residency.search.halving import Search, search_side_by_side
from residency.search.learning_rate import promote
from tests.conftest import rows_with_a_shared_start, tiny_llama

STEPS = 30
RATES = [1e-3, 1.1e-3]
ROWS = rows_with_a_shared_start(24)
OTHERS = rows_with_a_shared_start(40)[24:]
"""Random as they are, training teaches nothing of them, and neither rate is the better one."""


def new_search(
    folder: Path, *, held_out: list[Rendered] = OTHERS, shared: bool = True, fused: bool = False, **changes: Any
) -> Search:
    engine = Engine(tiny_llama(), micro_batch_tokens=200, speed=Speed(shared=shared, fused=fused))
    settings = Train.model_validate({
        "epochs": 100.0, "max_steps": STEPS, "batch_size": 4, "micro_batch_tokens": 200, "learning_rate": 1e-3,
        "eval_every_steps": 5, "save_every_steps": 5, "patience": None,
    } | changes)  # fmt: skip

    def add_adapters(names: Sequence[str]) -> None:
        engine.add_adapters(names, LoraConfig(r=4, target_modules="all-linear"), seed=3)

    (folder / "search").mkdir(parents=True, exist_ok=True)
    return Search(engine, ROWS, held_out, settings, RunFolder(folder), add_adapters)


@pytest.fixture
def all_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the two are soon as good as each other, for all that these rows can teach."""
    monkeypatch.setattr(halving, "MATTERS", 0.0)


def scores_of(search: Search) -> list[dict[int, float | None]]:
    return [one.scores for one in search.fates.values()]


@pytest.mark.usefixtures("all_matters")
@pytest.mark.parametrize("fused", [False, True])
def test_two_that_are_too_near_to_tell_are_both_carried_to_their_ends(tmp_path: Path, fused: bool) -> None:
    """In fused passes too, as on a GPU."""
    search = new_search(tmp_path, fused=fused)
    winner = search_side_by_side(search, RATES)
    assert [sorted(scores) for scores in scores_of(search)] == [[15, 23, STEPS]] * 2
    assert winner.name == min(search.fates, key=lambda name: search.fates[name].scores[STEPS] or 0.0)
    assert winner.state.step == STEPS
    assert [arm.name for arm in search.arms] == [winner.name]
    said = [event.message for event in search.run.events() if event.kind == "search_cut"]
    assert ["too near to tell, so both go on" in one for one in said] == [True, True, False]
    assert "both carried to their ends" in said[2]


@pytest.mark.usefixtures("all_matters")
def test_each_of_the_two_is_watched_as_a_run_is(tmp_path: Path) -> None:
    search = new_search(tmp_path)
    search_side_by_side(search, RATES)
    for name, one in search.fates.items():
        measured = {m.step: m.loss for m in RunFolder(search.record / name).metrics() if m.split == "eval"}
        assert list(measured) == [25, 30]
        assert one.scores[STEPS] == min(measured.values())


@pytest.mark.usefixtures("all_matters")
def test_the_better_one_is_the_run_that_its_rate_alone_would_have_made(tmp_path: Path) -> None:
    """On a CPU, in passes of its own; shared ones round in another order."""
    search = new_search(tmp_path)
    winner = search_side_by_side(search, RATES)
    promote(search, winner)
    search.add_adapters(["tuned"])
    found = sft.train(search.engine, "tuned", ROWS, OTHERS, winner.settings, search.run)
    assert (found.progress.step, found.progress.best_loss) == (STEPS, search.fates[winner.name].scores[STEPS])

    alone = new_search(tmp_path / "alone")
    alone.add_adapters(["tuned"])
    again = sft.train(alone.engine, "tuned", ROWS, OTHERS, winner.settings, alone.run)
    assert again.progress.best_step == found.progress.best_step
    assert again.progress.best_loss == pytest.approx(found.progress.best_loss, rel=1e-5)
    assert [m.loss for m in search.run.metrics() if m.split == "train"] == pytest.approx(
        [m.loss for m in alone.run.metrics() if m.split == "train"], rel=1e-5
    )


@pytest.mark.usefixtures("all_matters")
def test_one_that_runs_out_of_patience_ends_and_the_other_goes_on(tmp_path: Path) -> None:
    search = new_search(tmp_path, eval_every_steps=1, patience=1)
    winner = search_side_by_side(search, RATES)
    ended = [one.steps for one in search.fates.values() if one.name != winner.name] + [winner.state.step]
    assert all(23 < step <= STEPS for step in ended)
    assert winner.state.best_loss == min(loss for scores in scores_of(search) for loss in list(scores.values())[2:])


@pytest.mark.usefixtures("all_matters")
def test_the_two_are_compared_by_the_mean_of_the_last_quarter_of_their_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a mark before gave nobody up."""
    after_each_step: dict[str, list[torch.Tensor]] = {}

    def take_step(engine: Engine, arms: Sequence[Arm], **options: int) -> Taken:
        taken = arms_of_a_search.take_step(engine, arms, **options)
        for arm in arms:
            after_each_step.setdefault(arm.name, []).append(engine.weights(arm.name).clone())
        return taken

    def take_means(engine: Engine, arms: Sequence[Arm], count: int) -> None:
        arms_of_a_search.take_means(engine, arms, count)
        for arm in arms:
            last = torch.stack(after_each_step[arm.name][-count:])
            torch.testing.assert_close(engine.weights(arm.name), last.mean(dim=0))
        counts.append(count)

    counts: list[int] = []
    monkeypatch.setattr(halving, "take_step", take_step)
    monkeypatch.setattr(halving, "take_means", take_means)
    search_side_by_side(new_search(tmp_path), RATES)
    assert counts == [4, 6]


def test_where_it_does_not_matter_the_choice_is_made_at_three_quarters(tmp_path: Path) -> None:
    search = new_search(tmp_path)
    winner = search_side_by_side(search, RATES)
    assert [sorted(scores) for scores in scores_of(search)] == [[15, 23]] * 2
    assert winner.state.step == 23


def test_a_plain_difference_is_taken_at_half_of_the_run(tmp_path: Path) -> None:
    search = new_search(tmp_path, held_out=ROWS)
    winner = search_side_by_side(search, [1e-5, 1e-2])
    assert (winner.rate, search.step, winner.state.step) == (1e-2, 15, 15)


def test_where_candidates_take_turns_the_choice_is_made_at_half_of_the_run(tmp_path: Path) -> None:
    """There a second one costs as much again."""
    search = new_search(tmp_path, shared=False)
    winner = search_side_by_side(search, RATES)
    assert (search.step, winner.state.step) == (15, 15)


def interrupted_after(search: Search, step: int) -> None:
    """Counts the training steps that the first candidate has noted."""
    file = search.record / "candidate-1" / "metrics.jsonl"

    over = threading.Event()

    def ask() -> None:
        while not file.exists() or file.read_text().count('"train"') < step:
            if over.wait(0.001):
                return
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=ask).start()
    try:
        with pytest.raises(Interrupted):
            search_side_by_side(search, RATES)
    finally:
        over.set()


@pytest.mark.usefixtures("all_matters")
@pytest.mark.parametrize("step", [13, 17, 26])
def test_it_goes_on_where_it_was_interrupted(tmp_path: Path, step: int) -> None:
    """While a mean is made, between two comparisons, and on the way to the ends. There the two may stop a step apart
    and share no pass afterwards, which rounds in another order."""
    whole = new_search(tmp_path / "whole")
    winner: Arm = search_side_by_side(whole, RATES)
    interrupted_after(new_search(tmp_path / "parts"), step)
    again = new_search(tmp_path / "parts")
    assert search_side_by_side(again, RATES).rate == winner.rate
    for found, expected in zip(scores_of(again), scores_of(whole), strict=True):
        assert found == pytest.approx(expected, rel=0.0 if step < 23 else 1e-6)
