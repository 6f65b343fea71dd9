"""The badge of each evaluation, from what training writes down anyway."""

from __future__ import annotations

import pytest

from residency.evals.fit import judge_fit
from residency.records import Metric


def curve(train: list[float], held_out: list[float], *, accuracy: float = 0.5, every: int = 10) -> list[Metric]:
    """Each value of `train` holds for the `every` steps before the evaluation of the same place."""
    metrics = []
    for number, (loss, measured) in enumerate(zip(train, held_out, strict=True)):
        metrics += [
            Metric(step=number * every + i + 1, epoch=0, split="train", loss=loss, tokens=10, token_accuracy=accuracy,
                   seconds=0) for i in range(every)
        ]  # fmt: skip
        metrics.append(Metric(step=(number + 1) * every, epoch=0, split="eval", loss=measured, tokens=9, seconds=0))
    return metrics


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
    assert [one.badge for one in judge_fit(curve(train, held_out)).evaluations] == badges


def test_nothing_left_to_learn_is_overfitting_even_while_the_loss_stands_still() -> None:
    assert judge_fit(curve([1.0, 0.01], [0.5, 0.5], accuracy=0.995)).badge == "OVERFIT"


def test_a_run_without_held_out_rows_has_no_badge() -> None:
    metrics = [one for one in curve([1.0, 0.9], [1.0, 0.9]) if one.split == "train"]
    assert judge_fit(metrics).badge is None


def test_barely_adapted_is_recognised_and_says_what_to_change() -> None:
    falling = judge_fit(curve([5.0, 4.0, 3.0, 2.5, 2.0], [5.0, 4.0, 3.0, 2.5, 2.0])).barely
    assert falling is not None
    assert "train.epochs" in falling
    assert judge_fit(curve([5.0, 1.0, 0.5, 0.5, 0.5], [5.0, 1.0, 0.5, 0.5, 0.5])).barely is None
