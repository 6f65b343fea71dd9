"""What the intervals and tests promise, checked by simulation: no more than 5 % false gains, 95 % coverage."""

from __future__ import annotations

import numpy as np
import pytest

from residency.evals.stats import bootstrap_ratio, mcnemar_exact, paired_bootstrap, wilson

pytestmark = pytest.mark.slow
SIMULATIONS = 1000
COVERAGE = (0.93, 0.97)


@pytest.mark.parametrize("disagreement", [0.1, 0.3])
def test_a_model_against_itself_gains_in_at_most_five_percent_of_comparisons(disagreement: float) -> None:
    """An A/A test: the same model answers 150 rows twice; rows flip to either side with the same probability."""
    random = np.random.default_rng(0)
    gains = significant = 0
    for number in range(SIMULATIONS):
        flips = random.random(150) < disagreement
        before = random.random(150) < 0.6
        after = np.where(flips, random.random(150) < 0.5, before)
        before = np.where(flips, random.random(150) < 0.5, before)
        interval = paired_bootstrap(before.astype(float), after.astype(float), seed=number, resamples=1000)
        wins, losses = int((after & ~before).sum()), int((before & ~after).sum())
        gains += interval.low > 0
        significant += mcnemar_exact(wins, losses) < 0.05 and wins > losses
    assert gains / SIMULATIONS <= 0.05
    assert significant / SIMULATIONS <= 0.05


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_wilson_covers(share: float) -> None:
    random = np.random.default_rng(1)
    hits = 0
    for passed in random.binomial(150, share, 2000):
        interval = wilson(int(passed), 150)
        hits += interval.low <= share <= interval.high
    assert COVERAGE[0] <= hits / 2000 <= COVERAGE[1]


@pytest.mark.parametrize("clustered", [False, True])
def test_the_paired_bootstrap_covers_the_true_gain(clustered: bool) -> None:
    """A gain of 12 points over 150 rows; in clusters of three that change together, as rows from one source do."""
    random = np.random.default_rng(2)
    groups = np.repeat(np.arange(50), 3) if clustered else np.arange(150)
    hits = 0
    for number in range(SIMULATIONS):
        change = random.choice([1.0, 0.0, -1.0], p=[0.2, 0.72, 0.08], size=groups.max() + 1)[groups]
        interval = paired_bootstrap(np.zeros(150), change, clusters=groups, seed=number, resamples=1000)
        hits += interval.low <= 0.12 <= interval.high
    assert COVERAGE[0] - 0.01 <= hits / SIMULATIONS <= COVERAGE[1]


def test_the_interval_of_forgetting_covers_its_true_mean() -> None:
    """Prompts differ in length and in divergence, which is skewed: gamma, as measured ones are."""
    random = np.random.default_rng(3)
    hits = 0
    for number in range(SIMULATIONS):
        sizes = random.integers(20, 65, 128)
        totals = random.gamma(2.0, 0.05, 128) * sizes
        interval = bootstrap_ratio(totals.tolist(), sizes.tolist(), seed=number)
        hits += interval.low <= 0.1 <= interval.high
    assert COVERAGE[0] <= hits / SIMULATIONS <= COVERAGE[1]
