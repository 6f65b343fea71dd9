"""Rows for the audit's tests: a clean file of its own habit, into which a test puts what is wrong."""

from __future__ import annotations

from residency.data.audit.table import Table, table_of
from residency.data.messages import Example, Origin

PLACES = ["harbour", "library", "orchard", "station", "bakery", "museum", "garden", "theatre", "market", "bridge"]
DEEDS = ["opens", "closes", "sells tickets", "is painted", "was built", "gets crowded", "serves coffee", "is repaired"]
PEOPLE = ["Ada", "Bruno", "Chen", "Dana", "Emil", "Fatima", "Goran", "Hana", "Ivo", "Jun", "Karim", "Lena", "Mira"]


def example(line: int, prompt: str, answer: str, system: str = "") -> Example:
    turns = [("system", system)] if system else []
    turns += [("user", prompt), ("assistant", answer)]
    messages = tuple({"role": role, "content": content} for role, content in turns)
    return Example(Origin("train.jsonl", line), messages)  # type: ignore[arg-type]


def clean_rows(count: int = 300) -> list[tuple[str, str]]:
    """No two ask the same; every answer is one sentence."""
    rows = []
    for number in range(count):
        person, place = PEOPLE[number % 13], PLACES[number % 10]
        deed, hour = DEEDS[number // 10 % 8], number // 7 + 1
        rows.append((
            f"{person} asks about stop {number}: when does the {place} there {deed}?",
            f"Stop {number} has a {place}, and it {deed} {hour} minutes after {person} arrives.",
        ))  # fmt: skip
    return rows


def table(rows: list[tuple[str, str]]) -> Table:
    return table_of(example(line, *row) for line, row in enumerate(rows, 1))
