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
QUEUE_SHARE = 0.2
"""Few data have more wrong answers, and whoever reads the queue stops where the answers are right."""
FEWEST_ROWS = 50


def fit_scores(prompts: Vectors, answers: Vectors, nearest: NDArray[np.int32]) -> NDArray[np.float64]:
    """Shape (rows,): how well each answer fits; 0 is usual, and the lowest are the most suspicious.

    `nearest` are the `nearest_rows` of the prompts.
    """
    own = np.einsum("ij,ij->i", prompts, answers)
    return standardised(own) + standardised(neighbour_fit(answers, nearest[:, :NEIGHBOURS]))


def neighbour_fit(answers: Vectors, nearest: NDArray[np.int32]) -> NDArray[np.float32]:
    """The largest cosine of each answer to the answers of the nearest other prompts."""
    fit = np.zeros(len(answers), dtype=np.float32)
    for part in blocks(len(answers), nearest.shape[1] * answers.shape[1]):
        fit[part] = np.einsum("ij,ikj->ik", answers[part], answers[nearest[part]]).max(axis=1)
    return fit


def standardised(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """From the median, in units of the spread above it: the bad rows lie below, and must not widen the unit."""
    middle = np.median(values)
    spread = np.median(values[values >= middle] - middle)
    return np.asarray((values - middle) / (1.4826 * spread + 1e-3), dtype=np.float64)


def check_fit(table: Table, prompts: Vectors, answers: Vectors, nearest: NDArray[np.int32]) -> list[Finding]:
    """The QUEUE_SHARE of the rows whose answers fit least, for a person to look at."""
    asked = np.flatnonzero([bool(prompt) for prompt in table.prompts])
    if len(asked) < FEWEST_ROWS:
        return []
    scores = fit_scores(prompts, answers, nearest)[asked]
    queue = np.argsort(scores, kind="stable")[: max(1, round(QUEUE_SHARE * len(asked)))]
    return [Finding(
        "misfit_answers", "note",
        f"The {len(queue):,} answers that fit their questions and the answers to similar questions least, worst first. "
        "Wrong ones stand at the top, if there are any: read down to where they are right, and leave that share of the "
        "rows out with `--drop misfit_answers=SHARE%`.",
        table.origins(asked[queue]), {"fits": [round(float(score), 2) for score in scores[queue[:ROWS_RECORDED]]]},
    )]  # fmt: skip
