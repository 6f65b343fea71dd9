"""What makes a row clean before defects are planted; it knows nothing of how the checks judge.

Two rows with one prompt and two answers are a contradiction whoever wrote them, and a hole that nobody filled is
residue. Such rows are in real data, and a check that names them is right.
"""

from __future__ import annotations

import re
import unicodedata

from plant import Row

HOLE = re.compile(
    r"\{\{\s*\w+\s*\}\}|<\|\w+\|>|\[/?INST\]|<</?SYS>>|</?s>|^### ?(?:Instruction|Input|Response|Output):", re.MULTILINE
)
"""`{{name}}`, `<|user|>`, and what the templates of Llama and Alpaca write."""


def clean_rows(rows: list[Row]) -> tuple[list[Row], dict[str, int]]:
    """The rows without template holes, of each prompt the first; and how many were left out for which reason."""
    kept: dict[str, Row] = {}
    holes = 0
    for row in rows:
        if HOLE.search(row[0]) or HOLE.search(row[1]):
            holes += 1
        else:
            kept.setdefault(letters_and_digits(row[0]), row)
    return list(kept.values()), {"template_holes": holes, "prompt_given_before": len(rows) - holes - len(kept)}


def letters_and_digits(text: str) -> str:
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))
