"""How many examples: curves whose law is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from residency.advisor.scaling import Point, fit, forecast, sentence
from residency.errors import DataError

SIZES = (25, 50, 100, 200)
Law = Callable[[float], float]


def power(rows: float) -> float:
    return 3.0 / rows**0.5 + 0.02


def pre_power(rows: float) -> float:
    return 0.9 - 0.5 * max(rows - 150, 0) / 50


def flat(rows: float) -> float:
    return 0.3


def worthless(rows: float) -> float:
    return 0.98


def curve(
    law: Law, seed: int, *, noise: float = 0.02, test_rows: int = 200, sizes: tuple[int, ...] = SIZES
) -> list[Point]:
    """Rows of a test differ in how hard they are, and the same rows are asked each time; training has noise."""
    random = np.random.default_rng(seed)
    hardness = random.random(test_rows)
    points = []
    for rows, number in [(sizes[0], 0), (sizes[0], 1), *((size, 0) for size in sizes[1:])]:
        error = np.clip(law(rows) + random.normal(0, noise), 0, 1)
        passed = hardness + random.normal(0, 0.05, test_rows) > np.quantile(hardness, error)
        points.append(Point(rows, number, tuple(map(bool, passed))))
    return points


def test_the_law_is_found_where_there_is_no_noise() -> None:
    rows = np.array([25.0, 50.0, 100.0, 200.0, 400.0])
    shares = np.array([1 - power(x) for x in rows])
    curves, weights = fit(rows, shares, np.array([200.0, 400.0, 800.0]), np.full(5, 0.005))
    assert weights.sum() == pytest.approx(1)
    assert weights @ curves == pytest.approx([1 - power(200), 1 - power(400), 1 - power(800)], abs=0.015)


def test_the_interval_covers_the_measured_gain_of_twice_the_rows() -> None:
    covered = []
    for seed in range(60):
        points = curve(power, seed, sizes=(*SIZES, 400))
        twice = points.pop()
        measured = np.mean(twice.passed) - np.mean(points[-1].passed)
        gain = forecast(points, seed=seed).gain
        covered.append(gain.low <= measured <= gain.high)
    assert np.mean(covered) >= 0.8


def test_the_interval_says_something() -> None:
    found = forecast(curve(power, 1))
    assert found.refused is None
    assert 0 < found.gain.value < 0.15
    assert found.gain.high - found.gain.low < 0.25
    assert sentence(found).startswith("Twice the rows (400): +")


@pytest.mark.parametrize(
    ("law", "why"),
    [(flat, "a plateau"), (pre_power, "too early"), (worthless, "too early")],
    ids=["flat", "pre", "none"],
)
def test_no_forecast_on_a_plateau_or_before_the_curve_falls(law: Law, why: str) -> None:
    for seed in range(5):
        found = forecast(curve(law, seed, noise=0.0), untuned=0.02)
        assert found.refused is not None
        assert found.refused.startswith(why)
        assert "no forecast" in sentence(found)


def test_no_forecast_beyond_four_times_the_rows() -> None:
    assert forecast(curve(power, 0), times=4).refused is None
    assert "too far" in str(forecast(curve(power, 0), times=5).refused)


def test_two_sizes_are_no_curve() -> None:
    with pytest.raises(DataError, match="at least 3 sizes measured on one test, not 2"):
        forecast(curve(power, 0)[:3])
