"""Which rates a search tries, and the range probe that drops those it need not try."""

from __future__ import annotations

import math
from collections.abc import Sequence

from residency.engine.engine import Engine
from residency.engine.optim import StepSettings
from residency.methods.sft import exploded
from residency.search.arms import Arm, score

BELOW, ABOVE = 3, 4
"""Doublings below and above the formula's rate: eight candidates over a factor of 128. Small models and short runs,
where the formula is least certain, want more than it says (reference runs: 4 to 6 times)."""
FEWEST = 2


def ladder(centre: float) -> list[float]:
    """Candidates by rising rate, to two digits."""
    return [float(f"{centre * 2.0**power:.2g}") for power in range(-BELOW, ABOVE + 1)]


def probe(engine: Engine, arm: Arm, rates: Sequence[float]) -> list[float]:
    """One step with each rate on the arm's first batch, rising; the loss before the first and after each step.

    The arm's weights are spent afterwards. A loss that is no number ends it.
    """
    batch = arm.batch(0)
    losses = []
    for rate in rates:
        losses.append(engine.forward_backward({arm.engine_name: batch})[arm.engine_name].mean)
        norm = engine.step({arm.engine_name: StepSettings(rate, 0.0, arm.settings.max_grad_norm)})[arm.engine_name]
        if not (math.isfinite(losses[-1]) and math.isfinite(norm)):
            return [*losses, math.inf]
    return [*losses, score(engine, arm.engine_name, batch).mean]


def bearable(losses: Sequence[float]) -> int:
    """How many of the rates, from the lowest, the probe did not see diverge; two at least. A loss that rises for a step
    comes down again where training goes on: a rate diverges by what would end a run."""
    diverged = (
        number for number, after in enumerate(losses[1:]) if not math.isfinite(after) or exploded(losses[0], after)
    )
    return max(FEWEST, next(diverged, len(losses) - 1))
