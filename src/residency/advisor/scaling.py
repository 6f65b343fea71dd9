"""How many examples: the errors at nested subsets, the rectified scaling law through them, and what twice would bring.

The law is error(D) = B / (D_l + D^beta) + E (arXiv 2402.02314): until the data outweigh D_l, what the model has learnt
before, the curve is flat (the pre-power phase); after that it falls as a power towards E.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from residency.errors import DataError
from residency.records import Interval, Record

FURTHEST = 4.0
"""Beyond so many times the rows nothing is said."""
BOOTSTRAPS = 200
BETAS = np.linspace(0.1, 1.0, 10)
PRE_LEARNED = np.array([0.0, 0.25, 0.5, 1.0, 2.0, 4.0])
"""D_l as multiples of D^beta at the largest subset."""
TRAINING_NOISE = 0.02
"""What another seed changes, as a share of right answers; two seeds at the smallest subset correct it."""
PRIOR_PAIRS = 2.0
FEWEST_POINTS = 3


@dataclass(frozen=True, slots=True)
class Point:
    """One trained subset, measured on the same test as the others."""

    rows: int
    seed: int
    passed: tuple[bool, ...]


class Forecast(Record):
    rows: int
    then: int
    shares: dict[int, Interval]
    """Right answers by the subset's rows, with the error of the test and of the training."""
    gain: Interval
    """What `then` rows would measure over `rows`, as a share of the same test."""
    refused: str | None
    """Why the gain must not be relied on: no number is shown then."""


def forecast(points: Sequence[Point], *, times: float = 2.0, untuned: float = 0.0, seed: int = 0) -> Forecast:
    """What `times` the rows of the largest subset would bring.

    `untuned` is the share that the untuned model has right. Raises DataError for fewer than three sizes, or points that
    were measured on different tests.
    """
    sizes = sorted({point.rows for point in points})
    if len(sizes) < FEWEST_POINTS or len({len(point.passed) for point in points}) != 1:
        raise DataError(f"{len(sizes)} sizes measured on one test are needed; at least {FEWEST_POINTS}", param="points",
                        hint="train nested subsets, and measure all on the same rows")  # fmt: skip
    passed = np.array([[*point.passed] for point in points], dtype=np.float64)
    rows = np.array([point.rows for point in points], dtype=np.float64)
    noise = training_noise(points)
    random = np.random.default_rng(seed)
    largest = sizes[-1]
    now_and_then = np.array([largest, largest * times])
    value = float(-np.diff(fit(rows, 1 - passed.mean(1), now_and_then))[0])
    drawn = []
    for _ in range(BOOTSTRAPS):
        some = random.integers(passed.shape[1], size=passed.shape[1])
        errors = 1 - passed[:, some].mean(1) + random.normal(0, noise, len(points))
        gain = -np.diff(fit(rows, errors, now_and_then))[0]
        drawn.append(gain + random.normal(0, noise * np.sqrt(2)))
    low, high = np.quantile(drawn, [0.025, 0.975])
    shares = {size: _share(passed[rows == size].mean(0), noise) for size in sizes}
    return Forecast(
        rows=largest, then=round(largest * times), shares=shares,
        gain=Interval(value=value, low=float(min(low, value)), high=float(max(high, value)), n=passed.shape[1]),
        refused=refusal(rows, passed, times, untuned),
    )  # fmt: skip


def fit(rows: NDArray[np.float64], errors: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """The law's error at sizes `at`, by least squares over a grid of beta and D_l with B and E not negative.

    With both given, the law is linear in B and E and has a closed form, so there are no local minima to fall into. The
    curve is the mean over the grid, weighted by how well each fits: four points do not single out one.
    """
    largest = rows.max()
    beta = BETAS[:, None]
    offset = PRE_LEARNED[None, :] * largest**beta
    shape = (1 / (offset[..., None] + rows ** beta[..., None])).reshape(-1, len(rows))
    ahead = (1 / (offset[..., None] + at ** beta[..., None])).reshape(-1, len(at))
    slope, floor = _not_negative(shape, errors)
    residual = ((slope[:, None] * shape + floor[:, None] - errors) ** 2).sum(1)
    scale = max(residual.min() / max(len(rows) - 2, 1), 1e-4)
    weight = np.exp(-(residual - residual.min()) / (2 * scale))
    curves: NDArray[np.float64] = slope[:, None] * ahead + floor[:, None]
    found: NDArray[np.float64] = (weight[:, None] * curves).sum(0) / weight.sum()
    return found


def _not_negative(
    shape: NDArray[np.float64], errors: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least squares of `errors` on slope * shape + floor, row by row of `shape`, neither of them below zero."""
    centred = shape - shape.mean(1, keepdims=True)
    slope = np.maximum((centred * (errors - errors.mean())).sum(1) / (centred**2).sum(1), 0.0)
    floor = errors.mean() - slope * shape.mean(1)
    through_zero = np.maximum((shape * errors).sum(1) / (shape**2).sum(1), 0.0)
    return np.where(floor < 0, through_zero, slope), np.maximum(floor, 0.0)


def refusal(rows: NDArray[np.float64], passed: NDArray[np.float64], times: float, untuned: float) -> str | None:
    """Why the curve must not be drawn further, or nothing."""
    if times > FURTHEST:
        return f"{times:g} times the rows is too far: the law is not drawn beyond {FURTHEST:g} times"
    by_size = np.array([passed[rows == size].mean(0) for size in sorted(set(rows))])
    steps = np.diff(by_size, axis=0)
    flat = [bool(step.mean() < _standard_error(step)) for step in steps]
    rise = by_size[-1] - untuned
    if rise.mean() < 2 * _standard_error(rise):
        return "too early: even all rows gain nothing yet over the untuned model, so the slope says nothing"
    if flat[-1]:
        return "a plateau: the last doubling gained less than one standard error, so more of the same rows bring little"
    if flat[0]:
        return "too early: the first doubling is flat, so the curve has only begun to fall"
    return None


def training_noise(points: Sequence[Point]) -> float:
    """What another seed changes: pairs of seeds at one size, held to what is usual as long as pairs are few."""
    shares: dict[int, list[float]] = {}
    for point in points:
        shares.setdefault(point.rows, []).append(sum(point.passed) / len(point.passed))
    pairs = [found for found in shares.values() if len(found) > 1]
    squares = sum(float(np.var(found, ddof=1)) for found in pairs)
    return float(np.sqrt((PRIOR_PAIRS * TRAINING_NOISE**2 + squares) / (PRIOR_PAIRS + len(pairs))))


def _share(passed: NDArray[np.float64], noise: float) -> Interval:
    mean = float(passed.mean())
    reach = 1.96 * float(np.hypot(_standard_error(passed), noise))
    return Interval(value=mean, low=max(mean - reach, 0.0), high=min(mean + reach, 1.0), n=len(passed))


def _standard_error(values: NDArray[np.float64]) -> float:
    """Not zero where nothing varies: one row in 2 n may."""
    return float(max(values.std(ddof=1), np.sqrt(0.5 / len(values))) / np.sqrt(len(values)))


def sentence(found: Forecast) -> str:
    """For people: "twice the rows: +1.8 points (0.4 to 3.1)"."""
    times = found.then / found.rows
    name = "Twice" if found.then == 2 * found.rows else f"{times:.2g} times"
    if found.refused:
        return f"{name} the rows ({found.then:,}): no forecast. {found.refused[0].upper()}{found.refused[1:]}."
    low, value, high = (100 * x for x in (found.gain.low, found.gain.value, found.gain.high))
    return f"{name} the rows ({found.then:,}): {value:+.1f} points ({low:.1f} to {high:.1f})."
