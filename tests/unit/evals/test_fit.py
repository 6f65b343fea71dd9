"""The badge of each evaluation, from what training writes down anyway."""

from __future__ import annotations

import pytest

from residency.evals.fit import badge, judge_fit
from residency.records import Metric


def steps(losses: list[float], every: int = 10) -> list[Metric]:
    """Training steps; each value holds for `every` of them."""
    each = [loss for loss in losses for _ in range(every)]
    return [Metric(step=i + 1, epoch=0, split="train", loss=loss, tokens=10, seconds=0) for i, loss in enumerate(each)]


@pytest.mark.parametrize(
    ("train", "held_out", "badges"),
    [
        ([2.0, 1.0, 0.8], [1.9, 1.05, 0.85], ["OK", "OK", "OK"]),
        ([2.0, 1.0, 0.6], [1.9, 1.05, 0.85], ["OK", "OK", "WATCH"]),
        ([2.0, 0.5, 0.2, 0.1], [1.9, 1.0, 1.05, 1.1], ["OK", "WATCH", "WATCH", "OVERFIT"]),
        ([2.0, 0.9, 0.9, 0.9], [1.9, 1.0, 1.05, 1.0], ["OK", "OK", "OK", "OK"]),
    ],
    ids=["together", "a gap opens", "rises twice", "one bad measurement"],
)
def test_badges(train: list[float], held_out: list[float], badges: list[str]) -> None:
    found = [badge(held_out[: number + 1], loss, accuracy=0.5) for number, loss in enumerate(train)]
    assert found == badges


def test_nothing_left_to_learn_is_overfitting_where_the_held_out_loss_stands_still() -> None:
    assert badge([0.5, 0.5], 0.01, accuracy=0.995) == "OVERFIT"
    assert badge([0.5, 0.45], 0.01, accuracy=0.995) == "WATCH"  # it still falls
    assert badge([0.5], 0.01, accuracy=0.995) == "WATCH"


def test_a_run_without_held_out_rows_has_no_badge() -> None:
    assert judge_fit(steps([1.0, 0.9])).badge is None


def test_the_last_badge_is_the_runs_and_names_the_best_step() -> None:
    evaluations = [
        Metric(step=step, epoch=0, split="eval", loss=loss, tokens=9, seconds=0, train_loss=0.1, badge=found)
        for step, loss, found in ((10, 0.00288, "WATCH"), (20, 0.00304, "OVERFIT"))
    ]
    fit = judge_fit(evaluations)
    assert fit.badge == "OVERFIT"
    assert "0.00304 at step 20, 0.00288 at step 10" in str(fit.warning)


def test_barely_adapted_is_recognised_and_says_what_to_change() -> None:
    falling = judge_fit(steps([5.0, 4.0, 3.0, 2.5, 2.0])).barely
    assert falling is not None
    assert "train.epochs" in falling
    assert judge_fit(steps([5.0, 1.0, 0.5, 0.5, 0.5])).barely is None
