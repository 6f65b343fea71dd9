"""How many steps a run has, and at which of them something is due: plain arithmetic on its settings."""

from __future__ import annotations

import math
from typing import Literal

from residency.config.model import Train
from residency.config.section import Final

LONGEST_WARMUP_STEPS = 20
"""A rate rises over so many optimizer steps at most, whatever its share of them."""


def total_steps(settings: Train[Final], rows: int) -> int:
    """Optimizer steps over `rows` training rows."""
    steps = math.ceil(settings.epochs * rows / settings.batch_size)
    return min(steps, settings.max_steps) if settings.max_steps else steps


def is_due(every: int | Literal["epoch"], step: int, batch_size: int, rows: int) -> bool:
    """Whether something is done after `step`, which is to be done every so many steps, or whenever an epoch ends."""
    if every == "epoch":
        return step * batch_size // rows > (step - 1) * batch_size // rows
    return step % every == 0
