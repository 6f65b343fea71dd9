"""Answers that do not go with their questions: swapped and wrong ones stand first.

What goes with what is learned from the rows themselves, and needs no language model: a bilinear map between questions
and answers, known by word vectors and style, under which each question finds its own answer among those of other rows
(the contrastive loss of van den Oord et al. 1807.03748, in both directions). Each half of the rows is judged by the map
of the other half, so that no wrong row has taught that it is right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from residency.data.audit.clusters import style_features
from residency.data.audit.embeddings import Vectors, blocks
from residency.data.audit.findings import ROWS_RECORDED, Finding
from residency.data.audit.table import Table
from residency.wording import counted

STYLE_WEIGHT = 1 / 8
"""A style feature's deviation beside word vectors of length 1."""
COSINE_WEIGHT, HOLD = 5.0, 3e-4
"""The map begins as the cosine times COSINE_WEIGHT, and HOLD draws it back there: few rows teach little."""
STEPS, RATE, ROWS_A_STEP = 60, 0.05, 512
COMPARED_ROWS = 1000
QUEUE_SHARE = 0.2
"""Few data have more wrong answers, and whoever reads the queue stops where the answers are right."""
FEWEST_ROWS = 50


def described(vectors: Vectors, texts: Sequence[str]) -> Vectors:
    """Shape (rows, dimensions): the texts' vectors with their style behind."""
    style = style_features(texts)
    spread = (style - style.mean(axis=0)) / (style.std(axis=0) + 1e-3)
    return np.hstack([vectors, (STYLE_WEIGHT * spread).astype(np.float32)])


def fit_scores(questions: Vectors, answers: Vectors, seed: int = 0) -> NDArray[np.float64]:
    """Shape (rows,): how well each answer goes with its question, both `described`; 0 is usual, and the lowest are the
    most suspicious."""
    random = np.random.default_rng(seed)
    half = random.permutation(len(questions)) % 2
    scores = np.zeros(len(questions))
    for part in (0, 1):
        learned = learned_map(questions, answers, np.flatnonzero(half != part), random)
        judged = np.flatnonzero(half == part)
        others = random.choice(judged, min(COMPARED_ROWS, len(judged)), replace=False)
        for block in blocks(len(judged), len(others)):
            rows = judged[block]
            mapped = questions[rows] @ learned
            own = np.einsum("ij,ij->i", mapped, answers[rows])
            # Some answers go with every question, and some questions with every answer: that tells nothing.
            by_question = logsumexp(mapped @ answers[others].T, axis=1)
            by_answer = logsumexp(answers[rows] @ (questions[others] @ learned).T, axis=1)
            scores[rows] = own - (by_question + by_answer) / 2
    return standardised(scores)


def learned_map(
    questions: Vectors, answers: Vectors, rows: NDArray[np.int64], random: np.random.Generator
) -> NDArray[np.float32]:
    """The matrix M for which `question @ M @ answer` is high for a pair of `rows` and low for strangers; by Adam."""
    start = COSINE_WEIGHT * np.eye(questions.shape[1], dtype=np.float32)
    learned, mean, square = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for step in range(1, STEPS + 1):
        drawn = random.choice(rows, min(ROWS_A_STEP, len(rows)), replace=False)
        asked, said = questions[drawn], answers[drawn]
        likeness = asked @ learned @ said.T
        error = (softmax(likeness, axis=0) + softmax(likeness, axis=1)) / 2 - np.eye(len(drawn), dtype=np.float32)
        gradient = asked.T @ error @ said / len(drawn) + HOLD * (learned - start)
        mean += 0.1 * (gradient - mean)
        square += 0.001 * (gradient**2 - square)
        rate = RATE * (1 - (step - 1) / STEPS)
        learned -= rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return learned


def standardised(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """From the median, in units of the spread above it: the bad rows lie below, and must not widen the unit."""
    middle = np.median(values)
    spread = np.median(values[values >= middle] - middle)
    return np.asarray((values - middle) / (1.4826 * spread + 1e-3), dtype=np.float64)


def check_fit(table: Table, fits: NDArray[np.float64]) -> list[Finding]:
    """The QUEUE_SHARE of the rows whose answers fit least, for a person to look at; `fits` are theirs."""
    asked = np.flatnonzero([bool(prompt) for prompt in table.prompts])
    if len(asked) < FEWEST_ROWS:
        return []
    scores = fits[asked]
    queue = np.argsort(scores, kind="stable")[: max(1, round(QUEUE_SHARE * len(asked)))]
    return [Finding(
        "misfit_answers", "note",
        f"Answers that go with their questions least, as the other rows have it, worst first: "
        f"{counted(len(queue), 'row')}. Wrong ones stand at the top, if there are any: read down to where they are "
        "right, and leave that share of the rows out with `--drop misfit_answers=SHARE%`.",
        table.origins(asked[queue]), {"fits": [round(float(score), 2) for score in scores[queue[:ROWS_RECORDED]]]},
    )]  # fmt: skip
