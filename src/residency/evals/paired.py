"""Two models on the same rows of several tests: which is better, allowing for how many tests were looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from residency.evals.compare import compare
from residency.evals.stats import bootstrap_ratio, paired_bootstrap
from residency.records import Comparison, EvalResult, Interval, PairedComparison, PairedResult, PromptDivergence
from residency.wording import percent

MARGIN = 0.02
"""Not worse: with 95 % confidence the share of right answers fell by less than this."""
ONE_SIDED = 0.90
"""The lower end of this two-sided interval is the one-sided 95 % limit."""


def compare_all(
    a: str, b: str, before: Sequence[EvalResult], after: Sequence[EvalResult], forgetting: Interval | None
) -> PairedResult:
    """Every test and grader that both have. Raises RunError where a test's rows differ."""
    of_b = {result.test: result for result in after}
    found = [
        (one, result, of_b[result.test])
        for result in before
        if result.test in of_b
        for one in compare(result, of_b[result.test])
    ]
    adjusted = iter(holm([one.p_value for one, _, _ in found if one.p_value is not None]))
    comparisons = [
        PairedComparison(
            comparison=one.model_copy(update={"gain": gain(one, old, new)}),
            p_holm=None if one.p_value is None else next(adjusted),
            not_worse=gain(one, old, new, ONE_SIDED).low > -MARGIN,
            margin=MARGIN,
        )
        for one, old, new in found
    ]
    return PairedResult(a=a, b=b, comparisons=comparisons, forgetting=forgetting)


def gain(one: Comparison, before: EvalResult, after: EvalResult, confidence: float = 0.95) -> Interval:
    """The paired difference, where rows that ask the same are drawn together: they are no separate evidence."""
    decided = one.p_value is not None

    def values(result: EvalResult) -> list[float]:
        grades = [answer.grades[one.grader] for answer in result.answers]
        return [float(grade.passed or 0) if decided else grade.score for grade in grades]

    clusters = [" ".join(answer.prompt.split()).casefold() for answer in before.answers]
    return paired_bootstrap(values(before), values(after), clusters=clusters, confidence=confidence)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values that hold for all tests together (Holm 1979), in the order given."""
    order, adjusted, highest = np.argsort(p_values), [0.0] * len(p_values), 0.0
    for rank, position in enumerate(order):
        highest = max(highest, (len(p_values) - rank) * p_values[position])
        adjusted[position] = min(1.0, highest)
    return adjusted


def forgetting_between(a: Sequence[PromptDivergence], b: Sequence[PromptDivergence]) -> Interval | None:
    """How much more B has moved from the base than A, in nats per token, on the anchors both were measured on."""
    of_b = {one.prompt: one for one in b if one.set == "anchors"}
    pairs = [(one, of_b[one.prompt]) for one in a if one.set == "anchors" and one.prompt in of_b]
    pairs = [(old, new) for old, new in pairs if old.tokens == new.tokens]
    if not pairs:
        return None
    sizes = [float(old.tokens) for old, _ in pairs]
    return bootstrap_ratio([(new.divergence - old.divergence) * old.tokens for old, new in pairs], sizes)


def sentence(found: PairedComparison, a: str, b: str) -> str:
    """What one comparison comes to."""
    one = found.comparison
    where = f"{one.test}, {one.grader}"
    significant = found.p_holm is None or found.p_holm < 0.05
    if one.gain.low > 0 and significant:
        return f"{where}: {b} is better than {a}"
    if one.gain.high < 0 and significant:
        return f"{where}: {b} is worse than {a}"
    shown = f"{where}: no difference could be shown"
    return f"{shown}; {b} is not worse by more than {percent(found.margin)}" if found.not_worse else shown
