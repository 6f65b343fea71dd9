"""The intervals hold what they promise: checked against textbook values and by simulation."""

import numpy as np
import pytest

from residency.evals.stats import bootstrap_mean, mcnemar_exact, paired_bootstrap, wilson


@pytest.mark.parametrize(
    ("passed", "n", "low", "high"),
    [(25, 50, 0.366, 0.634), (90, 100, 0.826, 0.945), (0, 150, 0.0, 0.025), (150, 150, 0.975, 1.0), (1, 1, 0.207, 1.0)],
)
def test_wilson_gives_the_textbook_limits(passed: int, n: int, low: float, high: float) -> None:
    interval = wilson(passed, n)
    assert (interval.value, interval.n) == (passed / n, n)
    assert interval.low == pytest.approx(low, abs=1e-3)
    assert interval.high == pytest.approx(high, abs=1e-3)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("n", [50, 150])
def test_wilson_covers_the_truth_in_about_95_of_100_tests(share: float, n: int) -> None:
    intervals = [wilson(passed, n) for passed in range(n + 1)]
    drawn = np.random.default_rng(0).binomial(n, share, 20_000)
    covered = np.array([interval.low <= share <= interval.high for interval in intervals])[drawn]
    assert 0.93 <= covered.mean() <= 0.975


@pytest.mark.parametrize("n", [20, 100])
def test_the_bootstrap_covers_the_true_mean_in_about_95_of_100_tests(n: int) -> None:
    random = np.random.default_rng(1)
    intervals = [paired_bootstrap(np.zeros(n), random.beta(2, 3, n), resamples=500) for _ in range(600)]
    covered = np.mean([interval.low <= 0.4 <= interval.high for interval in intervals])
    assert 0.925 <= covered <= 0.975


def test_equal_models_show_a_gain_in_at_most_5_of_100_comparisons() -> None:
    random = np.random.default_rng(2)
    before, after = random.random((2, 1000, 150)) < 0.6
    pairs = list(zip(before, after, strict=True))
    by_bootstrap = [paired_bootstrap(old, new, resamples=500).low > 0 for old, new in pairs]
    by_mcnemar = [
        mcnemar_exact(int((new & ~old).sum()), int((old & ~new).sum())) < 0.05 and new.mean() > old.mean()
        for old, new in pairs
    ]
    assert np.mean(by_bootstrap) <= 0.05
    assert np.mean(by_mcnemar) <= 0.05


def test_a_true_gain_is_found() -> None:
    random = np.random.default_rng(3)
    before, after = random.random(150) < 0.5, random.random(150) < 0.8
    gain = paired_bootstrap(before, after)
    assert 0 < gain.low < gain.value < gain.high
    assert gain.value == pytest.approx(after.mean() - before.mean())


def test_the_same_seed_gives_the_same_limits() -> None:
    values = list(np.random.default_rng(4).random(80))
    assert bootstrap_mean(values) == bootstrap_mean(values)
    assert bootstrap_mean(values) != bootstrap_mean(values, seed=1)


def test_rows_of_one_cluster_are_drawn_together() -> None:
    values = np.repeat(np.random.default_rng(5).normal(size=20), 10)
    zeros, clusters = np.zeros(200), np.repeat(np.arange(20), 10)
    apart, together = paired_bootstrap(zeros, values), paired_bootstrap(zeros, values, clusters=list(clusters))
    assert together.value == pytest.approx(apart.value)
    assert together.n == apart.n == 200
    assert together.high - together.low > 2.5 * (apart.high - apart.low)


def test_clusters_of_one_row_change_nothing() -> None:
    random = np.random.default_rng(6)
    before, after = random.random((2, 60))
    assert paired_bootstrap(before, after, clusters=[f"row-{row:02}" for row in range(60)]) == paired_bootstrap(
        before, after
    )


@pytest.mark.parametrize(
    ("value", "n", "low", "high"),
    [(0.0, 150, 0.0, 0.02), (1.0, 150, 0.98, 1.0), (0.1, 60, 0.05, 0.15), (0.5, 1, 0.0, 1.0)],
)
def test_scores_that_are_all_equal_are_still_uncertain(value: float, n: int, low: float, high: float) -> None:
    interval = bootstrap_mean([value] * n)
    assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))


def test_no_change_at_all_is_no_proof_of_none() -> None:
    interval = paired_bootstrap([1.0] * 30, [1.0] * 30)
    assert (interval.value, interval.low, interval.high) == (0.0, -0.1, 0.1)


@pytest.mark.parametrize(
    ("wins", "losses", "p_value"),
    [(0, 0, 1.0), (5, 5, 1.0), (6, 0, 0.03125), (0, 6, 0.03125), (9, 1, 22 / 1024), (1, 0, 1.0)],
)
def test_mcnemar_is_the_exact_two_sided_binomial_test(wins: int, losses: int, p_value: float) -> None:
    assert mcnemar_exact(wins, losses) == pytest.approx(p_value)


def test_a_large_test_does_not_fill_the_memory() -> None:
    values = np.random.default_rng(7).random(20_000)
    interval = paired_bootstrap(np.zeros(20_000), values, resamples=1_000)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / 20_000**0.5, rel=0.1)
