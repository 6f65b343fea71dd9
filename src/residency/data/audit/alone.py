"""What each row shows by itself: the part of the checks that a second process can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from residency.data.audit import schema, style
from residency.data.audit.beside import Task, beside
from residency.data.audit.private import PrivateValue, private_values
from residency.data.audit.residue import find_residue
from residency.data.audit.table import Table

FEWEST_SHARED = 2000
"""With fewer rows a second process takes longer to start than it saves."""
MOST_ROWS, MOST_CHARACTERS = 2048, 2_000_000
"""Of a task; a row more may have any length."""
FEWEST_FOR_LANGUAGE, LANGUAGE_SAMPLE = 100, 20_000

Texts = tuple[list[str], list[str], list[str]]
"""Systems, prompts and answers of some rows."""


class Alone(NamedTuple):
    residue: dict[int, str]
    """By row with pieces of a template, the first."""
    private: dict[int, list[PrivateValue]]
    """By row with private values, those."""
    traits: NDArray[np.bool_]
    """Of the answers (`style.traits_of`)."""


@contextmanager
def looked_at(table: Table) -> Iterator[Callable[[], tuple[Alone, list[str]]]]:
    """Begins to look at the rows beside the caller. Yields the function that gives what they show, and the languages of
    the answers of `language_sample`."""
    sample = [table.answers[row][: schema.LANGUAGE_CHARACTERS] for row in language_sample(len(table))]
    # Languages first: their model takes half a second to read, and the other process is to do it.
    samples: list[Task] = [(schema.languages, sample[i : i + MOST_ROWS]) for i in range(0, len(sample), MOST_ROWS)]
    parts = list(parts_of(table))
    with beside([*samples, *((look_at, texts_of(table, part)) for part in parts)],
                worth_it=len(table) >= FEWEST_SHARED) as results:  # fmt: skip

        def joined() -> tuple[Alone, list[str]]:
            found = results()
            languages = [code for part in found[: len(samples)] for code in part]
            return join(parts, found[len(samples) :]), languages

        yield joined


def language_sample(number: int) -> range:
    return range(0, number if number >= FEWEST_FOR_LANGUAGE else 0, max(1, number // LANGUAGE_SAMPLE))


def parts_of(table: Table) -> Iterator[range]:
    """The rows, in parts of a size that is held twice for a moment."""
    first = characters = 0
    for row, texts in enumerate(zip(table.systems, table.prompts, table.answers, strict=True)):
        characters += sum(map(len, texts))
        if row + 1 - first == MOST_ROWS or characters > MOST_CHARACTERS or row + 1 == len(table):
            yield range(first, row + 1)
            first, characters = row + 1, 0


def texts_of(table: Table, rows: range) -> Texts:
    part = slice(rows.start, rows.stop)
    return table.systems[part], table.prompts[part], table.answers[part]


def look_at(texts: Texts) -> Alone:
    residue: dict[int, str] = {}
    private: dict[int, list[PrivateValue]] = {}
    of_systems = {system: private_values(system) for system in set(texts[0])}
    for row, (system, prompt, answer) in enumerate(zip(*texts, strict=True)):
        if pieces := find_residue(prompt, answer=False) + find_residue(answer, answer=True):
            residue[row] = pieces[0]
        if values := of_systems[system] + private_values(prompt) + private_values(answer):
            private[row] = values
    return Alone(residue, private, style.traits_of(texts[2]))


def join(parts: list[range], each: list[Alone]) -> Alone:
    residue: dict[int, str] = {}
    private: dict[int, list[PrivateValue]] = {}
    for part, one in zip(parts, each, strict=True):
        residue |= {part[row]: piece for row, piece in one.residue.items()}
        private |= {part[row]: values for row, values in one.private.items()}
    return Alone(residue, private, np.concatenate([one.traits for one in each]))
