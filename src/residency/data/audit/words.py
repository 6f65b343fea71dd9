"""Texts as numbers: every word an id, all rows in one flat array."""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Chinese, Japanese and Korean write no spaces between words: each character counts as one.
SINGLE = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
# `3 < 4` is no `3 > 4`, and C no C++: a sign between two operands is a word, and so is one behind a single letter. A
# dash with spaces is one behind a figure or a single letter; elsewhere it belongs to a sentence or a list.
# Each branch opens with its own characters and looks back from there, which is twice as fast as looking back first.
OPERATOR = r"[-+*/^%=<>\u00d7\u00f7\u2212\u2260\u2264\u2265]"
SIGN = (
    rf"{OPERATOR}(?<=[\s\d)].)(?!(?<=-)\s){OPERATOR}*(?=[\s\d(])"
    r"|-(?=\s+(?:[\d(]|[^\W\d_]\b))(?:(?<=\d\s-)|(?<=\d-)|(?<=\b[a-z]\s-))"
    r"|\+\+(?<=\b[a-z]\+\+)|#(?<=\b[a-z]#)"
)
WORD = re.compile(rf"[{SINGLE}]|[^\W_{SINGLE}]+|{SIGN}")
ASCII_WORD = re.compile(rf"[a-z0-9]+|{SIGN}", re.ASCII)
CHUNK_ROWS = 4096
NO_WORD = 0


def words_of(text: str) -> list[str]:
    """Letters and digits in lower case, and signs; any other thing that stands between them does not count."""
    lower = text.lower()
    return ASCII_WORD.findall(lower) if lower.isascii() else WORD.findall(lower)


def is_figure(word: str) -> bool:
    """A number or a sign: another one makes another text, however alike the rest is."""
    return not word.isalpha() and (not word.isalnum() or any(map(str.isdigit, word)))


class Vocabulary:
    """Ids from 1 by first appearance."""

    def __init__(self) -> None:
        self.ids: defaultdict[str, int] = defaultdict()
        self.ids.default_factory = lambda: len(self.ids) + 1

    def __len__(self) -> int:
        return len(self.ids) + 1

    def words(self) -> list[str]:
        return ["", *self.ids]


@dataclass(frozen=True, slots=True)
class Words:
    ids: NDArray[np.int32]
    """The words of all rows, one after the other."""
    starts: NDArray[np.int64]
    """Shape (rows + 1,); row i is `ids[starts[i] : starts[i + 1]]`."""
    counts: NDArray[np.int64] = field(init=False)
    """Words by row."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", np.diff(self.starts))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, index: int) -> list[int]:
        found: list[int] = self.ids[self.starts[index] : self.starts[index + 1]].tolist()
        return found

    def part(self, first: int, last: int) -> Words:
        starts = self.starts[first : last + 1]
        return Words(self.ids[starts[0] : starts[-1]], starts - starts[0])

    def rows(self, rows: NDArray[np.int64]) -> Words:
        counts = self.counts[rows]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        places = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], counts)
        return Words(self.ids[places], starts)

    def chunks(self) -> Iterator[tuple[int, int]]:
        """(first row, the one behind the last) of parts so small that what is made of one may be large."""
        for first in range(0, len(self), CHUNK_ROWS):
            yield first, min(first + CHUNK_ROWS, len(self))

    def blocks(self, rows: int) -> Iterator[Words]:
        for first in range(0, len(self), rows):
            yield self.part(first, min(first + rows, len(self)))


def read_words(texts: Iterable[str], vocabulary: Vocabulary) -> Words:
    ids, starts = array("i"), array("q", [0])
    find = vocabulary.ids.__getitem__
    for text in texts:
        ids.extend(map(find, words_of(text)))
        starts.append(len(ids))
    return Words(np.frombuffer(ids, dtype=np.int32) if ids else np.zeros(0, np.int32), np.frombuffer(starts, np.int64))


def row_frequency(words: Words, size: int) -> NDArray[np.int64]:
    """How often each word id occurs, each row counted once."""
    found = np.zeros(size, dtype=np.int64)
    for first, last in words.chunks():
        part = words.part(first, last)
        rows = np.repeat(np.arange(len(part)), part.counts)
        pairs = distinct(rows * size + part.ids)
        found += np.bincount(pairs % size, minlength=size)
    return found


def shared_words(words: Words, pairs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each pair of rows the words that both have, and those that one has; each counted once."""
    size = int(words.ids.max(initial=0)) + 1
    shared, either = np.zeros(len(pairs), dtype=np.int64), np.zeros(len(pairs), dtype=np.int64)
    for first in range(0, len(pairs), CHUNK_ROWS):
        part = pairs[first : first + CHUNK_ROWS]
        sides = [words.rows(part[:, side]) for side in (0, 1)]
        sets = [distinct(np.repeat(np.arange(len(part)), side.counts) * size + side.ids) for side in sides]
        both = np.sort(np.concatenate(sets))
        twice = both[1:][both[1:] == both[:-1]]
        shared[first : first + len(part)] = np.bincount(twice // size, minlength=len(part))
        either[first : first + len(part)] = np.bincount(both // size, minlength=len(part))
    return shared, either - shared


def distinct(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """In order, each once; for many values faster than `np.unique`, which counts on few."""
    ordered = np.sort(values)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser (Steele, Lea and Flood 2014): every input bit moves every output bit."""
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def shingles(words: Words, size: int, *, whole: bool) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of the runs of `size` words in each row, and where each row's runs start.

    The starts have one more at the end. With `whole` only runs that lie inside a row count; else those at a row's end
    are filled up with nothing, so that a row has as many runs as words.
    """
    ids, counts = words.ids, words.counts
    ends = np.repeat(np.cumsum(counts), counts)
    place = np.arange(len(ids))
    runs = np.zeros(len(ids), dtype=np.uint64)
    for step in range(size):
        shifted = np.zeros(len(ids), dtype=np.uint64)
        shifted[: max(0, len(ids) - step)] = ids[step:]
        shifted[place + step >= ends] = 0
        runs = mix(runs * np.uint64(0x9E3779B97F4A7C15) + shifted + np.uint64(step + 1))
    if whole:
        inside = place + size <= ends
        counts = np.maximum(counts - size + 1, 0)
        runs = runs[inside]
    return runs, np.concatenate([[0], np.cumsum(counts)])
