"""Habits of the answers, and the rows that break them: format, tone, length, refusals, labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

RARE_SHARE = 0.005
"""A trait that fewer answers have is a minority; a person decides whether it is wanted."""
FEWEST_ROWS = 100
LABELS_AT_MOST = 50
ROWS_PER_LABEL = 10
OUTLIER_DEVIATIONS = 6.0

LIST_ITEM = re.compile(r"^[ \t]*(?:[-*\u2022]|\d{1,3}[.)])\s+\S", re.MULTILINE)
HEADING = re.compile(r"^#{1,6} \S|\*\*[^*\n]+\*\*", re.MULTILINE)
MARKUP = re.compile(r"<([A-Za-z][\w-]*)(?:\s[^<>]*)?>[^<]*</\1>")
TABLE_ROW = re.compile(r"^\|.*\|[ \t]*$", re.MULTILINE)
PREAMBLE = re.compile(
    r"\s*(?:(?:sure|certainly|of course|absolutely|great question|good question|happy to help)[!,.:]+\s*\w"
    r"|sure (?:thing|here|i)\b|happy to help\b|i(?:'d| would) be happy"
    r"|here(?:'s| is| are) (?:the|a|an|your|my)\b|as an ai\b|thank you for|thanks for asking)", re.IGNORECASE,
)  # fmt: skip
"""What is said before the answer. A bare `Certainly.` is the answer."""
EMOJI = re.compile(r"[\u2600-\u27bf\U0001f300-\U0001faff]")
SLANG = re.compile(r"\b(?:lol|lmao|gonna|wanna|gotta|dunno|u r|thx|pls|omg|btw|yeah|nah|dude|bro)\b", re.IGNORECASE)
REFUSAL = re.compile(
    r"\s*(?:(?:i'?m|i am) (?:very |really |so |truly )?sorry,? (?:but|i)|sorry,? (?:but )?i (?:can|am)"
    r"|i (?:can(?:no|')t|am (?:unable|not able)) (?:to )?"
    r"(?:help|assist|provide|answer|do|comply|fulfil|continue|discuss|share|give)"
    r"|as an ai(?: language)?(?: model)?,? i)", re.IGNORECASE,
)  # fmt: skip
SENTENCE_ENDS = (".", "!", "?", "\u3002", "\uff01", "\uff1f", '."', ".)", "\u0964")


def is_json(answer: str) -> bool:
    return answer[:1] in ("{", "[") and answer[-1:] in ("}", "]") and ('"' in answer or answer[:1] == "[")


def is_upper(answer: str) -> bool:
    letters = [letter for letter in answer[:200] if letter.isalpha()]
    return len(letters) >= 8 and answer.isupper() and " " in answer.strip()


TRAITS: dict[str, Callable[[str], bool]] = {
    "is JSON": is_json,
    "holds a code block": lambda answer: "```" in answer,
    "is a list": lambda answer: len(LIST_ITEM.findall(answer)) >= 2,
    "has headings or bold text": lambda answer: bool(HEADING.search(answer)),
    "has a table": lambda answer: "|" in answer and len(TABLE_ROW.findall(answer)) >= 2,
    "has HTML or XML": lambda answer: "</" in answer and bool(MARKUP.search(answer)),
    "opens with a courtesy": lambda answer: bool(PREAMBLE.match(answer)),
    "is in capitals": is_upper,
    "has emoji": lambda answer: not answer.isascii() and bool(EMOJI.search(answer)),
    "shouts": lambda answer: "!!" in answer,
    "is casual": lambda answer: bool(SLANG.search(answer)),
    "begins in lower case": lambda answer: answer[:1].islower(),
    "has several paragraphs": lambda answer: "\n\n" in answer,
    "ends like a sentence": lambda answer: answer.endswith(SENTENCE_ENDS),
}


def traits_of(answers: Sequence[str]) -> NDArray[np.bool_]:
    """Shape (rows, traits)."""
    tests = list(TRAITS.values())
    found = np.empty((len(answers), len(tests)), dtype=np.bool_)
    for row, answer in enumerate(answers):
        text = answer.strip()
        found[row] = [test(text) for test in tests]
    return found


def minorities(traits: NDArray[np.bool_]) -> list[tuple[str, NDArray[np.int64]]]:
    """(what sets them apart, rows) for each trait that few answers have, or few lack; the rarest first."""
    number = len(traits)
    if number < FEWEST_ROWS:
        return []
    found = []
    for name, column in zip(TRAITS, traits.T, strict=True):
        count = int(column.sum())
        if 0 < count <= RARE_SHARE * number:
            found.append((name, np.flatnonzero(column)))
        elif 0 < number - count <= RARE_SHARE * number:
            found.append((f"unlike the others, not: {name}", np.flatnonzero(~column)))
    return sorted(found, key=lambda one: len(one[1]))


def refusals(answers: Sequence[str]) -> NDArray[np.int64]:
    return np.flatnonzero([bool(REFUSAL.match(answer)) for answer in answers])


def label_counts(answers: Sequence[str]) -> dict[str, int] | None:
    """How often each answer is given, most frequent first, where a few short answers are all there are: labels."""
    counts: Counter[str] = Counter()
    for answer in answers:
        counts[answer.strip()] += 1
        if len(counts) > LABELS_AT_MOST:
            return None
    if len(counts) < 2 or len(answers) < ROWS_PER_LABEL * len(counts) or max(map(len, counts)) > 100:
        return None
    return dict(counts.most_common())


def length_outliers(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows whose length lies far outside the others': by the median absolute deviation of its logarithm."""
    if len(lengths) < FEWEST_ROWS:
        return np.zeros(0, dtype=np.int64)
    logs = np.log1p(lengths)
    middle = np.median(logs)
    spread = 1.4826 * max(float(np.median(np.abs(logs - middle))), 0.05)
    return np.flatnonzero(np.abs(logs - middle) > OUTLIER_DEVIATIONS * spread)
