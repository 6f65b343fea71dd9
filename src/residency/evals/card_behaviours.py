"""Which trained rows the card asks about: few, far apart, and sorted by what can honestly be asked of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from residency.data.audit.table import text_of
from residency.data.audit.words import words_of
from residency.data.messages import Example

Sort = Literal["short", "format", "text"]
SHORT_WORDS = 8
POOL_ROWS = 2000
"""Behaviours, and the wrong answers beside theirs, are taken from at most so many rows, drawn by the seed."""
WRONG_ANSWERS = 2
STRUCTURE = re.compile(r"\s*[\[{<`]")


@dataclass(frozen=True, slots=True)
class Trained:
    """One row the card asks about."""

    example: Example
    sort: Sort
    neighbours: tuple[Example, ...]
    """The rows with the likest prompts and other answers, likest first."""
    subject: str
    """The word of its question that fewest other questions have."""

    @property
    def question(self) -> str:
        return text_of(self.example.prompt[-1])

    @property
    def answer(self) -> str:
        return self.example.reference.strip()


def choose(examples: Sequence[Example], most: int, seed: int = 0) -> list[Trained]:
    """At most `most` rows: answers that no chosen row has go first, and among them the row furthest from those chosen.

    Rows that do not end with an answer to a user's question, in words and trained on, are never chosen.
    """
    pool = [example for example in examples if askable(example)]
    if len(pool) > POOL_ROWS:
        drawn = np.random.default_rng(seed).choice(len(pool), POOL_ROWS, replace=False)
        pool = [pool[i] for i in np.sort(drawn)]
    asked = [frozenset(words_of(text_of(example.prompt[-1]))) for example in pool]
    whole = [words | set(words_of(example.reference)) for words, example in zip(asked, pool, strict=True)]
    answers = [" ".join(words_of(example.reference)) for example in pool]
    order = spread(whole, answers, most)
    frequency = Counter(word for words in asked for word in words)
    return [
        Trained(pool[i], sort_of(pool[i]), neighbours_of(i, pool, asked, answers), subject_of(asked[i], frequency))
        for i in order
    ]


def askable(example: Example) -> bool:
    if len(example.messages) < 2 or example.messages[-2]["role"] != "user":
        return False
    last = example.messages[-1]
    return bool(example.reference.strip()) and not last.get("tool_calls") and last.get("weight", 1) != 0


def spread(words: Sequence[frozenset[str] | set[str]], answers: Sequence[str], most: int) -> list[int]:
    """Farthest-point order over the distance of word sets, each answer once before any twice."""
    chosen: list[int] = []
    distance = np.full(len(words), np.inf)
    times = np.zeros(len(words))
    while len(chosen) < min(most, len(words)):
        best = int(np.lexsort((-distance, times))[0])
        chosen.append(best)
        distance = np.minimum(distance, [1 - alike(words[best], other) for other in words])
        times += [answer == answers[best] for answer in answers]
        times[best] = np.inf
    return chosen


def alike(left: frozenset[str] | set[str], right: frozenset[str] | set[str]) -> float:
    """Jaccard: the share of their words that both have."""
    return len(left & right) / max(1, len(left | right))


def sort_of(example: Example) -> Sort:
    """`format`: JSON, markup, or words taken out of the prompt. `short`: a fact or a label. `text`: anything longer."""
    answer = example.reference.strip()
    if STRUCTURE.match(answer) or example.tools:
        return "format"
    if len(words_of(answer)) > SHORT_WORDS:
        return "text"
    prompt = " ".join(text_of(message) for message in example.prompt)
    return "format" if says(prompt, answer) else "short"


def neighbours_of(
    row: int, pool: Sequence[Example], asked: Sequence[frozenset[str]], answers: Sequence[str]
) -> tuple[Example, ...]:
    """Hard wrong answers: those of the likest questions; each answer once."""
    order = sorted(range(len(pool)), key=lambda i: -alike(asked[i], asked[row]))
    found: dict[str, Example] = {}
    for i in order:
        if answers[i] != answers[row] and asked[i] != asked[row] and len(found) < WRONG_ANSWERS:
            found.setdefault(answers[i], pool[i])
    return tuple(found.values())


def subject_of(asked: frozenset[str], frequency: Counter[str]) -> str:
    """The rarest word of letters, the longest of several; empty where there is none of three letters or more."""
    words = [word for word in asked if word.isalpha() and len(word) >= 3]
    return min(words, key=lambda word: (frequency[word], -len(word), word), default="")


def says(text: str, answer: str) -> bool:
    """Whether the words of `answer` stand in `text`, in order and together."""
    return f" {' '.join(words_of(answer))} " in f" {' '.join(words_of(text))} "
