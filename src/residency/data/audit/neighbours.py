"""The rows whose prompts are most like a row's own, for every row, in linear time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from residency.data.audit.embeddings import Vectors, blocks

NEIGHBOURS = 200
COMPARED_ROWS = 20_000
"""Neighbours are looked for among at most so many rows, drawn at random."""


def nearest_rows(prompts: Vectors, seed: int = 0) -> NDArray[np.int32]:
    """Shape (rows, neighbours): the NEIGHBOURS nearest other rows by cosine, or all where there are fewer; the nearest
    first."""
    random = np.random.default_rng(seed)
    compared = np.sort(random.choice(len(prompts), min(len(prompts), COMPARED_ROWS), replace=False)).astype(np.int32)
    place = np.full(len(prompts), -1)
    place[compared] = np.arange(len(compared))
    count = min(NEIGHBOURS, len(compared) - 1)
    found = np.zeros((len(prompts), count), dtype=np.int32)
    for part in blocks(len(prompts), len(compared)):
        similar = prompts[part] @ prompts[compared].T
        inside = np.flatnonzero(place[part] >= 0)
        similar[inside, place[part][inside]] = -2  # a row is not its own neighbour
        top = np.argpartition(similar, -count, axis=1)[:, -count:]
        order = np.argsort(-np.take_along_axis(similar, top, axis=1), axis=1, kind="stable")
        found[part] = compared[np.take_along_axis(top, order, axis=1)]
    return found
