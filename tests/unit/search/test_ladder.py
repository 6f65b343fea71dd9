from __future__ import annotations

import math
from itertools import pairwise

import pytest

from residency.engine.engine import Engine
from residency.search.halving import marks
from residency.search.ladder import bearable, ladder
from residency.search.learning_rate import formula
from tests.conftest import tiny_llama
from tests.unit.config.test_resolve import resolved


def test_eight_rates_double_around_the_formula() -> None:
    rates = ladder(4.9e-4)
    assert len(rates) == 8
    assert rates[3] == 4.9e-4
    assert all(1.9 < high / low < 2.1 for low, high in pairwise(rates))


def test_a_multiplier_moves_the_candidates() -> None:
    engine = Engine(tiny_llama())
    plain, doubled = (
        formula(resolved(train={"learning_rate": "search", "learning_rate_multiplier": times})[0], engine, 200)[0]
        for times in (1.0, 2.0)
    )
    assert doubled == pytest.approx(2 * plain, rel=0.02)


@pytest.mark.parametrize(
    ("losses", "usable"),
    [
        ([2.0, 1.9, 1.8, 1.7, 1.6], 4),
        ([2.0, 1.9, 1.8, 2.9, 1.0], 4),
        ([2.0, 1.9, 1.8, 3.1, 1.0], 2),
        ([2.0, 1.0, 0.4, 1.4, 0.7], 4),
        ([0.4, 0.2, 0.1, 1.4, 0.7], 4),
        ([2.0, 1.9, 1.8, 1.7, math.inf], 3),
        ([2.0, 1.9, 1.8, 1.7, math.nan], 3),
        ([2.0, 9.0, 9.0, 9.0, 9.0], 2),
    ],
)
def test_rates_are_dropped_from_the_first_whose_loss_would_end_a_run(losses: list[float], usable: int) -> None:
    assert bearable(losses) == usable


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(235, [(12, 3), (47, 2), (118, 1)]), (30, [(8, 2), (15, 1)]), (12, [(8, 1)]), (5, [(5, 1)])],
)
def test_the_worse_candidates_are_given_up_at_each_mark(steps: int, expected: list[tuple[int, int]]) -> None:
    assert marks(steps) == expected
