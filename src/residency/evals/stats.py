"""The uncertainty of a number: 95 % intervals and the exact test, vectorised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from residency.records import Interval

CONFIDENCE = 0.95
FEW_KINDS = 8
"""Where so many groups or more are alike on average, drawing kinds is faster than drawing groups."""
CELLS_AT_ONCE = 4_000_000
"""Numbers drawn at a time, so that a large test does not fill the memory."""


def wilson(passed: int, n: int) -> Interval:
    """A proportion with Wilson's score interval, which holds for few rows and near 0 and 1 (Wilson 1927)."""
    limits = stats.binomtest(passed, n).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(value=passed / n, low=float(limits.low), high=float(limits.high), n=n)


def clustered_wilson(passed: Sequence[bool], clusters: Sequence[Any]) -> Interval:
    """A proportion over items that come in clusters, such as several prompts about one fact; `n` counts the items.

    Wilson's interval for the number of independent items that would vary as much: n over the design effect, with
    Student's t for an effect estimated from few clusters (Korn and Graubard 1998; Franco et al. 2019). That number is
    at most n, and where nothing varies it is the number of clusters.
    """
    _, labels = np.unique(np.asarray(clusters), return_inverse=True)
    sums, sizes = np.bincount(labels, np.asarray(passed, np.float64)), np.bincount(labels)
    n, groups, value = int(sizes.sum()), len(sizes), float(sums.sum() / sizes.sum())
    variance = float(((sums - value * sizes) ** 2).sum()) / n**2 * groups / max(1, groups - 1)
    effective = float(groups)
    if variance > 0 and groups > 1:
        normal, wider = stats.norm.ppf((1 + CONFIDENCE) / 2), stats.t.ppf((1 + CONFIDENCE) / 2, groups - 1)
        effective = min(float(n), value * (1 - value) / variance * (normal / wider) ** 2)
    low, high = _wilson_limits(value, effective)
    return Interval(value=value, low=low, high=high, n=n)


def _wilson_limits(value: float, n: float) -> tuple[float, float]:
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    middle = (value + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * math.sqrt(value * (1 - value) / n + z**2 / (4 * n**2))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def bootstrap_mean(values: Sequence[float], *, seed: int = 0) -> Interval:
    """The mean of scores, with bootstrap limits."""
    rows = np.asarray(values, np.float64)
    return _bootstrap(rows, np.ones(len(rows)), floor=0.0, seed=seed, resamples=10_000)


def bootstrap_ratio(totals: Sequence[float], sizes: Sequence[float], *, seed: int = 0) -> Interval:
    """`sum(totals) / sum(sizes)` over groups that are drawn together, such as the tokens of a prompt; `n` counts the
    groups. Limits by the bootstrap; where nothing varies they are the value itself."""
    groups, weights = np.asarray(totals, np.float64), np.asarray(sizes, np.float64)
    value = float(groups.sum() / weights.sum())
    if len(groups) < 2 or np.allclose(groups, value * weights, rtol=1e-9, atol=1e-12):
        return Interval(value=value, low=value, high=value, n=len(groups))
    low, high = _limits(groups, weights, seed, 10_000, CONFIDENCE)
    return Interval(value=value, low=low, high=high, n=len(groups))


def paired_bootstrap(
    before: Sequence[float],
    after: Sequence[float],
    *,
    clusters: Sequence[Any] | None = None,
    seed: int = 0,
    resamples: int = 10_000,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The mean of `after - before` over the same rows, with limits; rows of one cluster are drawn together."""
    totals = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    sizes = np.ones(len(totals))
    if clusters is not None:
        _, labels = np.unique(np.asarray(clusters), return_inverse=True)
        totals = np.bincount(labels, totals).astype(np.float64)
        sizes = np.bincount(labels).astype(np.float64)
    return _bootstrap(totals, sizes, floor=-1.0, seed=seed, resamples=resamples, confidence=confidence)


def mcnemar_exact(wins: int, losses: int) -> float:
    """The two-sided p-value of so uneven a split of the changed rows, were gain and loss equally likely."""
    if wins + losses == 0:
        return 1.0
    return float(stats.binomtest(wins, wins + losses).pvalue)


def _bootstrap(
    totals: NDArray[np.float64],
    sizes: NDArray[np.float64],
    *,
    floor: float,
    seed: int,
    resamples: int,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Limits of `sum(totals) / sum(sizes)` over groups drawn with replacement.

    The percentiles are widened by Student's t, because plain ones are too narrow for few rows (Hesterberg 2015,
    "What Teachers Should Know About the Bootstrap", expanded percentiles). Where nothing varies, drawing again shows no
    spread: then the limits allow for a share of 3/n unseen rows that differ by 1, within `floor` and 1, by the rule of
    three (Hanley and Lippman-Hand 1983).
    """
    value, groups, n = float(totals.sum() / sizes.sum()), len(totals), int(sizes.sum())
    if np.allclose(totals, value * sizes):
        low, high = max(value - 3 / groups, min(value, floor)), min(value + 3 / groups, max(value, 1.0))
        return Interval(value=value, low=low, high=high, n=n)
    low, high = _limits(totals, sizes, seed, resamples, confidence)
    return Interval(value=value, low=low, high=high, n=n)


def _limits(
    totals: NDArray[np.float64], sizes: NDArray[np.float64], seed: int, resamples: int, confidence: float
) -> tuple[float, float]:
    groups, random = len(totals), np.random.default_rng(seed)
    means = np.concatenate(
        [_means(totals, sizes, random, count) for count in _portions(resamples, CELLS_AT_ONCE // groups + 1)]
    )
    reach = math.sqrt(groups / (groups - 1)) * stats.t.ppf((1 + confidence) / 2, groups - 1)
    low, high = np.quantile(means, [stats.norm.cdf(-reach), stats.norm.cdf(reach)])
    return float(low), float(high)


def _means(
    totals: NDArray[np.float64], sizes: NDArray[np.float64], random: np.random.Generator, resamples: int
) -> NDArray[np.float64]:
    kinds, counts = np.unique(np.stack([totals, sizes]), axis=1, return_counts=True)
    if FEW_KINDS * len(counts) <= len(totals):  # rows won, lost and unchanged: how many of each is all that matters
        drawn = random.multinomial(len(totals), counts / len(totals), size=resamples)
        return (drawn @ kinds[0]) / (drawn @ kinds[1])  # type: ignore[no-any-return]
    chosen = random.integers(len(totals), size=(resamples, len(totals)), dtype=np.int32)
    means: NDArray[np.float64] = totals[chosen].sum(1) / sizes[chosen].sum(1)
    return means


def _portions(total: int, most: int) -> list[int]:
    return [min(most, total - done) for done in range(0, total, most)]
