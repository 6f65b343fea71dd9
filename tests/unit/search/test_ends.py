"""Where candidates share passes, two that are too near to tell at half of the run both go on to three quarters."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from peft import LoraConfig

from residency.config.model import Train
from residency.data.messages import Rendered
from residency.engine.engine import Engine
from residency.engine.speed import Speed
from residency.errors import Interrupted
from residency.records import RunFolder
from residency.search.arms import Arm
from residency.search.halving import Search, marks, search_side_by_side, undecided_until
from tests.conftest import rows_with_a_shared_start, tiny_llama

STEPS = 30
RATES = [1e-3, 1.1e-3]
ROWS = rows_with_a_shared_start(24)
OTHERS = rows_with_a_shared_start(40)[24:]
"""Random as they are, training teaches nothing of them, and neither rate is the better one."""


def new_search(folder: Path, *, held_out: list[Rendered] = OTHERS, shared: bool = True) -> Search:
    engine = Engine(tiny_llama(), micro_batch_tokens=200, speed=Speed(shared=shared))
    settings = Train.model_validate({
        "epochs": 100.0, "max_steps": STEPS, "batch_size": 4, "micro_batch_tokens": 200, "learning_rate": 1e-3,
        "eval_every_steps": 100, "save_every_steps": 100, "patience": None,
    })  # fmt: skip

    def add_adapters(names: Sequence[str]) -> None:
        engine.add_adapters(names, LoraConfig(r=4, target_modules="all-linear"), seed=3)

    (folder / "search").mkdir(parents=True, exist_ok=True)
    return Search(engine, ROWS, held_out, settings, RunFolder(folder), add_adapters)


def scored_at(search: Search) -> list[list[int]]:
    return [sorted(one.scores) for one in search.fates.values()]


def lowest(search: Search, step: int) -> str:
    return min(search.fates, key=lambda name: search.fates[name].scores[step] or 0.0)


def test_both_go_on_and_the_lower_loss_is_taken(tmp_path: Path) -> None:
    half, later = marks(STEPS)[-1][0], undecided_until(STEPS)
    search = new_search(tmp_path)
    winner = search_side_by_side(search, RATES)
    assert (half, later) == (15, 23)
    assert (search.step, winner.state.step) == (later, later)
    assert scored_at(search) == [[half, later]] * 2
    assert winner.name == lowest(search, later)
    assert [arm.name for arm in search.arms] == [winner.name]
    said = [event.message for event in search.run.events() if event.kind == "search_cut"]
    assert f"too near to tell, so both go on to step {later}" in said[0]


def test_a_plain_difference_is_taken_at_half_of_the_run(tmp_path: Path) -> None:
    search = new_search(tmp_path, held_out=ROWS)
    winner = search_side_by_side(search, [1e-5, 1e-2])
    assert (winner.rate, search.step) == (1e-2, marks(STEPS)[-1][0])


def test_where_candidates_take_turns_the_choice_is_made_at_half_of_the_run(tmp_path: Path) -> None:
    """There a second one costs as much again."""
    search = new_search(tmp_path, shared=False)
    search_side_by_side(search, RATES)
    assert search.step == marks(STEPS)[-1][0]


def interrupted_after(search: Search, step: int) -> None:
    def ask() -> None:
        while search.step < step:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=ask).start()
    with pytest.raises(Interrupted):
        search_side_by_side(search, RATES)


def test_it_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    whole = new_search(tmp_path / "whole")
    winner: Arm = search_side_by_side(whole, RATES)
    first = new_search(tmp_path / "parts")
    interrupted_after(first, 17)
    assert marks(STEPS)[-1][0] < first.step < undecided_until(STEPS)
    again = new_search(tmp_path / "parts")
    assert search_side_by_side(again, RATES).rate == winner.rate
    assert [one.scores for one in again.fates.values()] == [one.scores for one in whole.fates.values()]
