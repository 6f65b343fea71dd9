"""Which rows a step trains on."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=8)
def order_of_epoch(epoch: int, count: int, seed: int) -> NDArray[np.int64]:
    """Not to be written to: whoever asks again gets the same array."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def rows_of_step(step: int, batch_size: int, count: int, seed: int) -> list[int]:
    """The rows of a step, a function of nothing but its arguments: each epoch is one shuffled pass."""
    positions = range(step * batch_size, (step + 1) * batch_size)
    epochs = {position // count for position in positions}
    orders = {epoch: order_of_epoch(epoch, count, seed) for epoch in epochs}
    return [int(orders[p // count][p % count]) for p in positions]
