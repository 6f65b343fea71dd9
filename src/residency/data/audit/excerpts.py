"""What the rows say that a finding names first: beginnings and ends, with nothing private in them."""

from __future__ import annotations

from collections.abc import Iterable

from residency.data.audit.findings import Finding
from residency.data.audit.private import mask_private
from residency.data.audit.table import Table
from residency.data.messages import Origin

ROWS_SHOWN = 3
"""Of each finding, and as many of the rows that they repeat or contradict."""
EXCERPT_CHARACTERS = 56


def excerpts(findings: Iterable[Finding], tables: Iterable[Table]) -> dict[Origin, str]:
    """By origin, the prompt and the answer of the rows that the findings show."""
    shown = {origin for one in findings for origin in [*one.rows[:ROWS_SHOWN], *one.others[:ROWS_SHOWN]]}
    lines = {origin.line for origin in shown}
    rows = (
        (table.origin(row), table, row)
        for table in tables for row, line in enumerate(table.file_lines) if line in lines
    )  # fmt: skip
    return {origin: excerpt(table, row) for origin, table, row in rows if origin in shown}


def excerpt(table: Table, row: int) -> str:
    return " -> ".join(shortened(text) for text in (table.prompts[row], table.answers[row]) if text.strip())


def shortened(text: str) -> str:
    ends = 40 * EXCERPT_CHARACTERS
    text = " ".join(mask_private(text if len(text) <= 2 * ends else f"{text[:ends]} {text[-ends:]}").split())
    half = EXCERPT_CHARACTERS // 2
    return text if len(text) <= EXCERPT_CHARACTERS else f"{text[:half]} ... {text[-half:]}"
