"""Who goes on: the better half by held-out loss, and at last the lowest rate that is as good as the best."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from residency.config.model import Train
from residency.engine.checkpoint import Progress
from residency.records import Candidate, RunFolder
from residency.search.arms import Arm, Score, cool_down_steps, standard_error
from residency.search.choice import as_good, near_best, survivors
from tests.conftest import random_rows

SETTINGS = {"epochs": 1.0, "batch_size": 8, "micro_batch_tokens": 100, "eval_every_steps": 1, "save_every_steps": 1}
ROWS = 100


def arm(rate: float, step: int = 0, epochs: int = 1) -> Arm:
    settings = Train.model_validate(SETTINGS | {"learning_rate": rate, "epochs": epochs})
    return Arm(f"{rate:g}", settings, random_rows(800), RunFolder(Path()), Progress(step=step, micro_batch_tokens=1))


def score(mean: float, *, noise: float = 0.0, seed: int = 0) -> Score:
    """`noise` is the part of a row's loss that another arm does not share."""
    shared = np.random.default_rng(7).normal(0, 1, ROWS)
    own = np.random.default_rng(seed).normal(0, 1, ROWS)
    own -= own.mean()
    return Score(mean + shared - shared.mean() + noise * own, np.ones(ROWS))


ARMS = [arm(1e-4), arm(2e-4), arm(4e-4)]


def chosen(*scores: Score, left: int = 1, **settings: object) -> list[str]:
    named = {one.name: found for one, found in zip(ARMS, scores, strict=True)}
    return survivors(ARMS, named, left, settings.get("keeps_budget"))  # type: ignore[arg-type]


def test_the_error_of_a_difference_leaves_out_what_both_have_in_common() -> None:
    assert standard_error(score(1.0), score(2.0)) == pytest.approx(0.0, abs=1e-12)
    assert standard_error(score(1.0, noise=0.5, seed=1), score(1.0)) == pytest.approx(0.05, rel=0.2)


def test_halves_are_kept_by_loss_and_a_lost_one_comes_last() -> None:
    assert chosen(score(3.0), score(1.0), score(2.0), left=2) == ["0.0002", "0.0004"]
    assert chosen(score(math.nan), score(1.0), score(2.0), left=2) == ["0.0002", "0.0004"]


def test_a_loss_that_was_lost_is_written_down_as_null(tmp_path: Path) -> None:
    lost = Candidate(name="candidate-8", learning_rate=1e-2, scores={8: score(math.nan).noted, 4: score(2.0).noted})
    RunFolder(tmp_path).write("candidate.json", lost)
    assert RunFolder(tmp_path).read("candidate.json", Candidate).scores == {8: None, 4: pytest.approx(2.0)}


def test_of_equal_losses_the_lower_rate_goes_on() -> None:
    assert chosen(score(1.0), score(1.0), score(1.0), left=2) == ["0.0001", "0.0002"]


def test_the_last_is_the_lowest_rate_within_one_standard_error_of_the_best() -> None:
    noisy = {"noise": 0.5}
    assert chosen(score(1.2, seed=1, **noisy), score(1.03, seed=2, **noisy), score(1.0, seed=3, **noisy)) == ["0.0002"]
    assert chosen(score(1.2), score(1.03), score(1.0)) == ["0.0004"]


def test_a_budget_decides_among_the_near_ones_then_among_all_and_else_the_lowest_rate_is_taken() -> None:
    near = score(1.2), score(1.0), score(1.0)
    assert chosen(*near, keeps_budget=lambda name: name == "0.0004") == ["0.0004"]
    assert chosen(*near, keeps_budget=lambda name: name == "0.0001") == ["0.0001"]
    assert chosen(*near, keeps_budget=lambda name: False) == ["0.0001"]


def test_two_are_too_near_to_tell_within_three_standard_errors() -> None:
    near = score(1.12, noise=0.5, seed=2), score(1.0, noise=0.5, seed=3)  # 1.7 standard errors
    far = score(1.3, noise=0.5, seed=2), score(1.0, noise=0.5, seed=3)
    for scores, names in ((near, ["0.0004", "0.0002"]), (far, ["0.0004"])):
        named = {one.name: found for one, found in zip(ARMS[1:], scores, strict=True)}
        assert [one.name for one in near_best(ARMS[1:], named, 3.0)] == names
    tied = score(1.04, seed=1, noise=0.5), score(1.02, seed=2, noise=0.5), score(1.0, seed=3, noise=0.5)
    named = {one.name: found for one, found in zip(ARMS, tied, strict=True)}
    assert survivors(ARMS, named, 1, None) == ["0.0001"]


def test_two_are_as_good_where_neither_can_be_better_by_more_than_a_hundredth() -> None:
    """By three standard errors, as near as they may lie."""
    best, near, noisy = score(1.0), score(1.001, noise=0.001, seed=2), score(1.001, noise=0.5, seed=2)
    assert as_good(best, near, 3.0, 0.01)
    assert not as_good(best, noisy, 3.0, 0.01)


@pytest.mark.parametrize(
    ("step", "epochs", "steps"), [(10, 1, 3), (98, 1, 2), (100, 1, 0), (50, 10, 5), (200, 10, 20), (500, 10, 20)]
)
def test_a_cool_down_is_a_tenth_of_the_steps_so_far_and_a_fiftieth_of_the_run_at_most(
    step: int, epochs: int, steps: int
) -> None:
    assert cool_down_steps(arm(1e-4, step, epochs)) == steps
