"""Which candidates go on, by the held-out losses that they were compared by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from residency.search.arms import Arm, Score, standard_error


def survivors(
    arms: Sequence[Arm], scores: Mapping[str, Score], left: int, keeps_budget: Callable[[str], bool] | None
) -> list[str]:
    """The `left` lowest losses, of equal ones the lower rate; the last one is chosen more carefully.

    It is the lowest rate within one standard error of the best, and of those one that keeps the budget, because a lower
    rate forgets less. Where none of them keeps it, the lowest rate of all that does, or else the lowest rate.
    """
    if left > 1:
        return [arm.name for arm in ranked(arms, scores)[:left]]
    near = near_best(arms, scores, 1.0)
    rising = sorted(near, key=lambda arm: arm.rate)
    if keeps_budget is None:
        return [rising[0].name]
    others = sorted((arm for arm in arms if arm not in near), key=lambda arm: arm.rate)
    keeping = next((arm for arm in [*rising, *others] if keeps_budget(arm.name)), None)
    return [(keeping or min(arms, key=lambda arm: arm.rate)).name]


def ranked(arms: Sequence[Arm], scores: Mapping[str, Score]) -> list[Arm]:
    return sorted(arms, key=lambda arm: (not math.isfinite(scores[arm.name].mean), scores[arm.name].mean, arm.rate))


def near_best(arms: Sequence[Arm], scores: Mapping[str, Score], within: float) -> list[Arm]:
    """The best and those at most so many standard errors of the difference behind it, the best first."""
    first, *others = ranked(arms, scores)
    best = scores[first.name]
    return [first, *(arm for arm in others if scores[arm.name].mean - best.mean
                     <= within * standard_error(scores[arm.name], best))]  # fmt: skip


def as_good(best: Score, other: Score, errors: float, share: float) -> bool:
    """Whether the other, within so many standard errors, is not better by more than this share of the loss."""
    could_be_better = errors * standard_error(other, best) - (other.mean - best.mean)
    return could_be_better <= share * best.mean
