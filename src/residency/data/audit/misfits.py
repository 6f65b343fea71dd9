"""Answers that fit neither their own question nor the answers of similar questions: swapped and wrong ones stand first.

Two measures, and neither needs a model: the cosine of an answer to its question, and to the most similar of the
answers that the nearest other questions got. Where questions and answers share words the first tells more, where
answers are labels or JSON the second.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from residency.data.audit.embeddings import Vectors, blocks
from residency.data.audit.findings import ROWS_RECORDED, Finding
from residency.data.audit.table import Table

NEIGHBOURS = 5
COMPARED_ROWS = 20_000
"""Neighbours are looked for among at most so many rows: linear time."""
QUEUE_SHARE = 0.2
"""Few data have more wrong answers, and whoever reads the queue stops where the answers are right."""
FEWEST_ROWS = 50


def fit_scores(prompts: Vectors, answers: Vectors, seed: int = 0) -> NDArray[np.float64]:
    """Shape (rows,): how well each answer fits; 0 is usual, and the lowest are the most suspicious."""
    own = np.einsum("ij,ij->i", prompts, answers)
    return standardised(own) + standardised(neighbour_fit(prompts, answers, seed))


def neighbour_fit(prompts: Vectors, answers: Vectors, seed: int) -> NDArray[np.float32]:
    """The largest cosine of each answer to the answers of the NEIGHBOURS nearest other prompts."""
    random = np.random.default_rng(seed)
    compared = np.sort(random.choice(len(prompts), min(len(prompts), COMPARED_ROWS), replace=False))
    place = np.full(len(prompts), -1)
    place[compared] = np.arange(len(compared))
    count = min(NEIGHBOURS, len(compared) - 1)
    fit = np.zeros(len(prompts), dtype=np.float32)
    for part in blocks(len(prompts), len(compared)):
        similar = prompts[part] @ prompts[compared].T
        inside = np.flatnonzero(place[part] >= 0)
        similar[inside, place[part][inside]] = -2  # a row is not its own neighbour
        nearest = compared[np.argpartition(similar, -count, axis=1)[:, -count:]]
        fit[part] = np.einsum("ij,ikj->ik", answers[part], answers[nearest]).max(axis=1)
    return fit


def standardised(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """From the median, in units of the spread above it: the bad rows lie below, and must not widen the unit."""
    middle = np.median(values)
    spread = np.median(values[values >= middle] - middle)
    return np.asarray((values - middle) / (1.4826 * spread + 1e-3), dtype=np.float64)


def check_fit(table: Table, prompts: Vectors, answers: Vectors, seed: int = 0) -> list[Finding]:
    """The QUEUE_SHARE of the rows whose answers fit least, for a person to look at."""
    asked = np.flatnonzero([bool(prompt) for prompt in table.prompts])
    if len(asked) < FEWEST_ROWS:
        return []
    scores = fit_scores(prompts[asked], answers[asked], seed)
    queue = np.argsort(scores, kind="stable")[: max(1, round(QUEUE_SHARE * len(asked)))]
    return [Finding(
        "misfit_answers", "note",
        f"The {len(queue):,} answers that fit their questions and the answers to similar questions least, worst first. "
        "Wrong ones stand at the top, if there are any: read down to where they are right, and leave that share of the "
        "rows out with `--drop misfit_answers=SHARE%`.",
        table.origins(asked[queue]), {"fits": [round(float(score), 2) for score in scores[queue[:ROWS_RECORDED]]]},
    )]  # fmt: skip
