"""Which rows a step trains on."""

from __future__ import annotations

import numpy as np


def rows_of_step(step: int, batch_size: int, count: int, seed: int) -> list[int]:
    """The rows of a step, a function of nothing but its arguments: each epoch is one shuffled pass."""
    positions = range(step * batch_size, (step + 1) * batch_size)
    epochs = {position // count for position in positions}
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(count) for epoch in epochs}
    return [int(orders[p // count][p % count]) for p in positions]
