"""What the training prompts cover: test prompts far from all of them, and a subset that covers as much as it can.

Choosing rows by quality scores rarely beats choosing at random (2410.09335, 2410.15225, 2503.01807); what holds up is
choosing by embeddings, towards the prompts that matter (RDS+ in 2503.01807) or spread over the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from residency.data.audit.embeddings import Vectors, blocks
from residency.data.audit.findings import Finding
from residency.data.messages import Origin
from residency.progress import track

FAR_QUANTILE = 0.01
NEAR_ENOUGH = 0.6
"""Cosine; a test prompt this near to a training prompt is never a hole."""
SAMPLED_PROMPTS = 2000
MISS = 0.1
"""How far the greedy choice may fall behind the exact greedy one, in expectation."""


def nearest_prompts(asked: Vectors, known: Vectors) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each asked prompt the nearest known one, and their cosine."""
    rows, cosines = np.zeros(len(asked), dtype=np.int64), np.zeros(len(asked), dtype=np.float32)
    for part in blocks(len(asked), len(known)):
        similar = asked[part] @ known.T
        rows[part] = similar.argmax(axis=1)
        cosines[part] = similar.max(axis=1)
    return rows, cosines


def far_limit(train: Vectors, seed: int = 0) -> float:
    """Below this cosine a prompt stands further from the training prompts than 99 % of those do from each other."""
    random = np.random.default_rng(seed)
    asked = np.sort(random.choice(len(train), min(len(train), SAMPLED_PROMPTS), replace=False))
    if len(train) < 2:
        return NEAR_ENOUGH
    cosines = np.zeros(len(asked), dtype=np.float32)
    for part in blocks(len(asked), len(train)):
        similar = train[asked[part]] @ train.T
        similar[np.arange(len(similar)), asked[part]] = -1  # a row is not its own neighbour
        cosines[part] = similar.max(axis=1)
    return min(NEAR_ENOUGH, float(np.quantile(cosines, FAR_QUANTILE)))


def check_coverage(
    train: Vectors, test: Vectors, train_rows: Sequence[Origin], test_rows: Sequence[Origin]
) -> list[Finding]:
    """The test prompts that no training prompt is near to."""
    limit = far_limit(train)
    rows, cosines = nearest_prompts(test, train)
    far = np.flatnonzero(cosines < limit)
    far = far[np.argsort(cosines[far], kind="stable")].tolist()
    if not far:
        return []
    return [Finding(
        "uncovered_tests", "warning",
        f"Test prompts unlike every training prompt (cosine below {limit:.2f}): {len(far):,} of {len(test):,}. Add "
        "examples like them, or be ready for wrong answers there.",
        [test_rows[i] for i in far], {"limit": limit, "cosines": [round(float(cosines[i]), 3) for i in far]},
        others=[train_rows[int(rows[i])] for i in far],
    )]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Selection:
    rows: NDArray[np.int64]
    """In the order of the file."""
    coverage: float
    """Mean cosine of the prompts that are to be covered to their nearest chosen row."""
    random_coverage: float
    """The same for a random choice of as many rows."""


def select_rows(vectors: Vectors, count: int, towards: Vectors | None = None, seed: int = 0) -> Selection:
    """`count` different rows whose prompts cover `towards`, or without it the data themselves.

    Time and memory grow linearly with the rows.
    """
    count = min(count, len(vectors))
    random = np.random.default_rng(seed)
    if towards is None:
        asked = vectors[np.sort(random.choice(len(vectors), min(len(vectors), SAMPLED_PROMPTS), replace=False))]
        chosen = spread(vectors, asked, count, random)
    else:
        asked = towards
        chosen = in_turns(vectors, asked, count)
    by_chance = random.choice(len(vectors), count, replace=False)
    return Selection(
        np.sort(chosen),
        float(nearest_prompts(asked, vectors[chosen])[1].mean()),
        float(nearest_prompts(asked, vectors[by_chance])[1].mean()),
    )


def in_turns(vectors: Vectors, asked: Vectors, count: int) -> NDArray[np.int64]:
    """Each asked prompt in turn takes the nearest row that is left, until there are `count` (RDS+ in 2503.01807)."""
    depth = min(len(vectors), count)
    wishes = np.zeros((len(asked), depth), dtype=np.int64)
    for part in blocks(len(asked), len(vectors)):
        similar = asked[part] @ vectors.T
        top = np.argpartition(-similar, depth - 1, axis=1)[:, :depth]
        order = np.argsort(-np.take_along_axis(similar, top, axis=1), axis=1, kind="stable")
        wishes[part] = np.take_along_axis(top, order, axis=1)
    taken: dict[int, None] = {}
    places = [0] * len(asked)
    while len(taken) < count:
        for prompt, wanted in enumerate(wishes):
            while places[prompt] < depth and int(wanted[places[prompt]]) in taken:
                places[prompt] += 1
            if places[prompt] < depth and len(taken) < count:
                taken[int(wanted[places[prompt]])] = None
    return np.array(list(taken), dtype=np.int64)


def spread(vectors: Vectors, asked: Vectors, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Greedy facility location: each step takes the row that brings the asked prompts nearest to a chosen one.

    Each step looks at a random part of the rows, which costs MISS of the gain and makes the whole linear in the rows
    (Mirzasoleiman et al. 2015, Lazier Than Lazy Greedy).
    """
    looked_at = math.ceil(len(vectors) / count * math.log(1 / MISS))
    left = np.ones(len(vectors), dtype=np.bool_)
    covered = np.zeros(len(asked), dtype=np.float32)
    chosen = np.zeros(count, dtype=np.int64)
    with track("selecting", count) as advance:
        for step in range(count):
            rows = np.flatnonzero(left)
            if len(rows) > looked_at:
                rows = random.choice(rows, looked_at, replace=False)
            gains = np.concatenate([
                np.maximum(vectors[rows[part]] @ asked.T - covered, 0).sum(axis=1)
                for part in blocks(len(rows), len(asked))
            ])  # fmt: skip
            best = chosen[step] = rows[int(gains.argmax())]
            covered = np.maximum(covered, asked @ vectors[best])
            left[best] = False
            advance()
    return chosen
