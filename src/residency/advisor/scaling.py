"""How many examples: the errors at nested subsets, the rectified scaling law through them, and what twice would bring.

The law is loss(D) = B / (D_l + D^beta) + E (arXiv 2402.02314): until the data outweigh D_l, what the model has learnt
before, the curve is flat (the pre-power phase); after that it falls as a power towards E. A right answer is several
right decisions in a row, so the share of right answers is (1 - loss)^k, which is why it may rise late and steeply.
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
DECISIONS = (1, 2, 4, 8, 16)
"""k: how many decisions an answer may consist of."""
BETAS = np.linspace(0.1, 2.0, 20)
"""Up to 1 for the loss of converged runs; small subsets also train for fewer steps, which makes the curve steeper."""
PRE_LEARNT = np.array([0.0, 0.25, 0.5, 1.0, 2.0, 4.0])
"""D_l as multiples of D^beta at the largest subset."""
TRAINING_NOISE = 0.04
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
        raise DataError(f"the law needs at least {FEWEST_POINTS} sizes measured on one test, not {len(sizes)}",
                        param="points", hint="train nested subsets, and measure all on the same rows")  # fmt: skip
    passed = np.array([[*point.passed] for point in points], dtype=np.float64)
    rows = np.array([point.rows for point in points], dtype=np.float64)
    noise = training_noise(points)
    random = np.random.default_rng(seed)
    largest = sizes[-1]
    now_and_then = np.array([largest, largest * times])
    curves, weights = fit(rows, passed.mean(1), now_and_then, _spread(passed, noise))
    value = float(weights @ (curves[:, 1] - curves[:, 0]))
    drawn = []
    for _ in range(BOOTSTRAPS):
        some = passed[:, random.integers(passed.shape[1], size=passed.shape[1])]
        shares = np.clip(some.mean(1) + random.normal(0, noise, len(points)), 0, 1)
        curves, weights = fit(rows, shares, now_and_then, _spread(passed, noise))
        now, then = curves[random.choice(len(weights), p=weights)]
        drawn.append(then - now + random.normal(0, noise * np.sqrt(2)))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Forecast(
        rows=largest, then=round(largest * times),
        shares={size: _share(passed[rows == size].mean(0), noise) for size in sizes},
        gain=Interval(value=value, low=float(min(low, value)), high=float(max(high, value)), n=passed.shape[1]),
        refused=refusal(rows, passed, times, untuned),
    )  # fmt: skip


def fit(
    rows: NDArray[np.float64], shares: NDArray[np.float64], at: NDArray[np.float64], spread: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The shares of right answers that the law gives at sizes `at`, one row a curve, and how likely each curve is.

    A grid over k, beta and D_l; with those given the law is linear in B and E and has a closed form, so there are no
    local minima to fall into, and neither B nor E is negative. Four sizes do not single out one curve, so all are kept.
    `spread` is the standard error of each share.
    """
    beta = BETAS[:, None]
    offset = PRE_LEARNT[None, :] * rows.max() ** beta
    shape = (1 / (offset[..., None] + rows ** beta[..., None])).reshape(-1, len(rows))
    ahead = (1 / (offset[..., None] + at ** beta[..., None])).reshape(-1, len(at))
    curves, misfits = [], []
    for k in DECISIONS:
        inner = np.clip(shares, 0.25 * spread, 1.0)
        losses = 1 - inner ** (1 / k)
        trust = (k * inner ** (1 - 1 / k) / spread) ** 2  # the error of a loss, by the slope of the k-th root
        slope, floor = _not_negative(shape, losses, trust / trust.sum())
        fitted = np.clip(1 - slope[:, None] * shape - floor[:, None], 0, 1) ** k
        misfits.append((((fitted - shares) / spread) ** 2).sum(1))
        curves.append(np.clip(1 - slope[:, None] * ahead - floor[:, None], 0, 1) ** k)
    misfit = np.concatenate(misfits)
    likely = np.exp(-(misfit - misfit.min()) / 2)
    return np.concatenate(curves), likely / likely.sum()


def _not_negative(
    shape: NDArray[np.float64], losses: NDArray[np.float64], trust: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted least squares of `losses` on slope * shape + floor, for each row of `shape`, with neither below zero."""
    mean, level = shape @ trust, float(losses @ trust)
    centred = shape - mean[:, None]
    slope = np.maximum((centred * (losses - level)) @ trust / (centred**2 @ trust), 0.0)
    floor = level - slope * mean
    through_zero = np.maximum((shape * losses) @ trust / (shape**2 @ trust), 0.0)
    return np.where(floor < 0, through_zero, slope), np.maximum(floor, 0.0)


def _spread(passed: NDArray[np.float64], noise: float) -> NDArray[np.float64]:
    """The standard error of each point, shape (points,)."""
    return np.array([np.hypot(_standard_error(row), noise) for row in passed])


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
