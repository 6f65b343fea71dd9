"""Stage 2, all of it: what the rows are about, whether answers fit, and what the test asks that they do not cover."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from residency.data.audit.clusters import check_topics, find_topics, subjects
from residency.data.audit.coverage import check_coverage
from residency.data.audit.embeddings import embedder_installed, load_embedder
from residency.data.audit.findings import Finding
from residency.data.audit.misfits import check_fit
from residency.data.audit.table import Table

FEWEST_ROWS, MOST_ROWS = 100, 100_000
"""Fewer rows have no topics. Of more rows a random part is looked at, which bounds memory to some 300 MB."""


def check_subjects(train: Table, test: Table | None = None, seed: int = 0) -> list[Finding]:
    """Topics, mixed style, misfit answers and uncovered test prompts; without word vectors one note that says so."""
    if len(train) < FEWEST_ROWS:
        message = f"Fewer than {FEWEST_ROWS} rows: topics, and habits of format, length and language, were not judged."
        return [Finding("few_rows", "note", f"{message} They could not be told from chance.")]
    if not embedder_installed():
        message = "Not looked at, for want of word vectors: topics, misfit answers, and test prompts unlike all others."
        return [Finding("no_word_vectors", "note", f"{message} `pip install 'residency[topics]'` adds them.")]
    embedder = load_embedder()
    looked_at = part_of(train, seed)
    prompts = embedder.embed(subjects(looked_at))
    findings = check_topics(find_topics(looked_at, prompts, seed), looked_at)
    if len(looked_at) < len(train):
        findings[0] = replace(
            findings[0], message=f"{findings[0].message} Looked at: {MOST_ROWS:,} rows drawn at random."
        )
    findings += check_fit(looked_at, prompts, embedder.embed(looked_at.answers), seed)
    if test is not None and len(test):
        asked, rows = embedder.embed(subjects(test)), range(len(looked_at))
        findings += check_coverage(prompts, asked, looked_at.origins(rows), test.origins(range(len(test))))
    return findings


def part_of(table: Table, seed: int) -> Table:
    if len(table) <= MOST_ROWS:
        return table
    chosen = np.sort(np.random.default_rng(seed).choice(len(table), MOST_ROWS, replace=False)).tolist()
    columns = {name: [getattr(table, name)[row] for row in chosen] for name in table.__slots__}
    return Table(**columns)
