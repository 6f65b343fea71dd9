"""Stage 2, all of it: what the rows are about, whether answers fit, and what the test asks that they do not cover."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from residency.data.audit.clusters import check_topics, find_topics, subjects
from residency.data.audit.coverage import check_coverage
from residency.data.audit.embeddings import Vectors, embedder_installed, load_embedder
from residency.data.audit.findings import Finding
from residency.data.audit.misfits import FEWEST_ROWS as FEWEST_ASKED
from residency.data.audit.misfits import check_fit, described, fit_scores
from residency.data.audit.neighbours import nearest_rows
from residency.data.audit.table import Table

FEWEST_ROWS, MOST_ROWS = 100, 100_000
"""Fewer rows have no topics. Of more rows a random part is looked at, which bounds memory to some 600 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class Subjects:
    """What the rows are about, as vectors."""

    rows: NDArray[np.int64]
    """The numbers of the rows that were looked at."""
    table: Table
    """Those rows."""
    prompts: Vectors
    nearest: NDArray[np.int32]
    """By row, the `nearest_rows`, as places in `rows`."""


def read_subjects(train: Table, seed: int = 0) -> Subjects | None:
    """None for fewer than FEWEST_ROWS, and where there are no word vectors."""
    if len(train) < FEWEST_ROWS or not embedder_installed():
        return None
    rows = np.arange(len(train))
    if len(train) > MOST_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(len(train), MOST_ROWS, replace=False))
    table = part_of(train, rows)
    prompts = load_embedder().embed(subjects(table))
    return Subjects(rows, table, prompts, nearest_rows(prompts, seed))


def check_subjects(train: Table, found: Subjects | None, test: Table | None = None, seed: int = 0) -> list[Finding]:
    """Topics, mixed style, misfit answers and uncovered test prompts; without `found` one note that says why."""
    if len(train) < FEWEST_ROWS:
        message = f"Fewer than {FEWEST_ROWS} rows: topics, and habits of format, length and language, were not judged."
        return [Finding("few_rows", "note", f"{message} They could not be told from chance.")]
    if found is None:
        message = (
            "Not looked at, for want of word vectors: topics, formats rare among like requests, misfit answers, and "
            "test prompts unlike all others."
        )
        return [Finding("no_word_vectors", "note", f"{message} `pip install 'residency[topics]'` adds them.")]
    table = found.table
    findings = check_topics(find_topics(table, found.prompts, seed), table)
    if len(table) < len(train):
        findings[0] = replace(
            findings[0], message=f"{findings[0].message} Looked at: {MOST_ROWS:,} rows drawn at random."
        )
    findings += check_fit(table, fits_of(found, seed))
    if test is not None and len(test):
        asked, rows = load_embedder().embed(subjects(test)), range(len(table))
        findings += check_coverage(found.prompts, asked, table.origins(rows), test.origins(range(len(test))))
    return findings


def answer_fits(train: Table, seed: int = 0) -> NDArray[np.float64]:
    """Shape (rows,): the `fit_scores` of all rows; 0, which is usual, for those that are not looked at."""
    fits, found = np.zeros(len(train)), read_subjects(train, seed)
    if found is not None:
        fits[found.rows] = fits_of(found, seed)
    return fits


def fits_of(found: Subjects, seed: int = 0) -> NDArray[np.float64]:
    """Shape (rows looked at,): 0 for plain text, which has no question, and where there is hardly anything else."""
    asked = np.flatnonzero([bool(prompt) for prompt in found.table.prompts])
    fits = np.zeros(len(found.table))
    if len(asked) >= FEWEST_ASKED:
        answers = [found.table.answers[row] for row in asked]
        questions = [found.table.prompts[row] for row in asked]
        prompts, said = found.prompts[asked], load_embedder().embed(answers)
        fits[asked] = fit_scores(described(prompts, questions), described(said, answers), seed)
    return fits


def part_of(table: Table, rows: NDArray[np.int64]) -> Table:
    if len(rows) == len(table):
        return table
    return Table(**{name: [getattr(table, name)[row] for row in rows.tolist()] for name in table.__slots__})
