"""What one row shows by itself, against the habit of the file: cut-off answers, end marks, roles, languages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residency.data.audit.words import Words

HABIT_SHARE = 0.8
LONG_WORDS = 8
"""A shorter answer may be a label or a name and ends as it likes."""
LANGUAGE_CHARACTERS = 200
LANGUAGE_AT_LEAST = 40
LANGUAGE_SURE = 0.9
OPEN_ENDS = frozenset(
    {
        "the", "a", "an", "and", "or", "of", "to", "in", "with", "for", "by", "from", "as", "that", "which", "is",
        "are", "was", "were", "be", "been", "at", "on", "but", "if", "because", "than", "into", "its", "their",
        "his", "her", "your", "our", "my", "this", "these", "those", "der", "die", "das", "und", "oder", "mit",
        "von", "zu", "im", "le", "la", "les", "et", "de", "des", "un", "une", "el", "los", "las", "y",
    }
)  # fmt: skip
"""Words after which something has to follow."""
END_OF_SENTENCE = re.compile(r"[.!?:;\u3002\uff01\uff1f\u0964\u2026][\"')\]}\u201d\u2019*`]*\s*\Z|[}\])>\"'`|*]\s*\Z")
END_MARK = re.compile(r"(?:</?\w+>|<\|\w+\|>|#{3,}|\bEND\b|\bSTOP\b|\[\w+\])\s*\Z")


def cut_off(
    answers: Sequence[str], words: Words, vocabulary: Sequence[str], frequency: NDArray[np.int64]
) -> tuple[list[int], list[int]]:
    """(rows whose answer stops in the middle, rows whose answer only lacks the end mark that most others have).

    In the middle is behind a comma, behind a word that something has to follow, or on a word found nowhere else that
    begins a known one.
    """
    long = np.flatnonzero(words.counts >= LONG_WORDS)
    if not len(long):
        return [], []
    ends = np.array([bool(END_OF_SENTENCE.search(answers[row][-12:])) for row in long.tolist()])
    known = beginnings({vocabulary[i] for i in np.flatnonzero(frequency >= 3).tolist() if len(vocabulary[i]) > 3})
    stopped: list[int] = []
    unmarked: list[int] = []
    for row in long[~ends].tolist():
        last = int(words.ids[words.starts[row + 1] - 1])
        word, text = vocabulary[last], answers[row].rstrip().lower()
        if text.endswith(word):
            in_the_middle = word in OPEN_ENDS or (frequency[last] <= 1 and word in known)
        else:
            in_the_middle = text.endswith((",", "-", "("))
        (stopped if in_the_middle else unmarked).append(row)
    return stopped, unmarked if ends.mean() >= HABIT_SHARE else []


def beginnings(words: set[str]) -> set[str]:
    """Every proper beginning of each word."""
    return {word[:end] for word in words for end in range(1, len(word))} - words


def without_end_mark(answers: Sequence[str]) -> tuple[str, list[int]] | None:
    """(mark, rows without it) where most answers end with the same mark of their own, for example `###`."""
    marks = [match[0].strip() if (match := END_MARK.search(answer[-40:])) else "" for answer in answers]
    mark, count = Counter(marks).most_common(1)[0]
    if not mark or count < HABIT_SHARE * len(answers) or count == len(answers):
        return None
    return mark, [row for row, one in enumerate(marks) if one != mark]


def languages(texts: Sequence[str]) -> list[str]:
    """The language of each text (ISO 639-1) by its first characters, or nothing where it is short or unsure."""
    found = []
    for text in texts:
        code = ""
        if len(text) >= LANGUAGE_AT_LEAST:
            name, sure = language_model().classify(text[:LANGUAGE_CHARACTERS])
            code = name if sure >= LANGUAGE_SURE else ""
        found.append(code)
    return found


@cache
def language_model() -> Any:
    """Takes half a second and 0.1 GB to read."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
