"""Habits of the answers, and the rows that break them: format, tone, length, refusals, labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

RARE_SHARE = 0.005
"""A trait that fewer answers have is a minority; a person decides whether it is wanted."""
FEWEST_ROWS = 100
LABELS_AT_MOST = 50
ROWS_PER_LABEL = 10
OUTLIER_DEVIATIONS = 6.0

LIST_ITEM = re.compile(r"[ \t]*(?:[-*\u2022]|\d{1,3}[.)])\s+\S")
HEADING = re.compile(r"#{1,6} \S|\*\*[^*\n]+\*\*[ \t]*$", re.MULTILINE)
TAG = re.compile(r"<[A-Za-z!][^<>]*>")
WRAPPED = re.compile(
    r'\{\s*"(?:answer|response|reply|result|output|completion|text|content)"\s*:\s*"(?:[^"\\]|\\.)*"\s*\}',
    re.DOTALL | re.IGNORECASE,
)
PREAMBLE = re.compile(
    r"\s*(?:(?:sure|certainly|of course|absolutely|great question|good question|happy to help)[!,.:]+\s*[^\s!,.:]"
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


def is_wrapped(answer: str) -> bool:
    """`{"answer": "..."}`: a text in JSON under a name that says no more, which is another form than data in JSON."""
    return answer[:1] == "{" and answer[-1:] == "}" and bool(WRAPPED.fullmatch(answer))


def is_json(answer: str) -> bool:
    return answer[:1] in ("{", "[") and answer[-1:] in ("}", "]") and ('"' in answer or answer[:1] == "[")


def is_list(answer: str) -> bool:
    """Every line is an item, or goes on with one."""
    if not LIST_ITEM.match(answer):
        return False
    lines = [line for line in answer.split("\n") if line.strip()]
    return len(lines) >= 2 and all(line[0].isspace() or LIST_ITEM.match(line) for line in lines)


def is_table(answer: str) -> bool:
    lines = answer.split("\n") if answer[:1] == "|" else []
    return len(lines) >= 2 and all(line.rstrip().endswith("|") for line in lines)


def is_markup(answer: str) -> bool:
    return answer[:1] == "<" and answer[-1:] == ">" and "</" in answer and bool(TAG.match(answer))


def is_upper(answer: str) -> bool:
    """Of letters that have two cases, which in some scripts few have."""
    if not answer.isupper() or " " not in answer:
        return False
    letters = [letter for letter in answer[:200] if letter.isalpha()]
    cased = sum(letter.isupper() for letter in letters)
    return cased >= 8 and 2 * cased >= len(letters)


FORMS: dict[str, Callable[[str], bool]] = {
    "is JSON": is_json,
    "is a text in JSON": is_wrapped,
    "is a code block": lambda answer: answer.startswith("```") and answer.endswith("```"),
    "is a bulleted list": lambda answer: not answer[:1].isdigit() and is_list(answer),
    "is a numbered list": lambda answer: answer[:1].isdigit() and is_list(answer),
    "opens with a heading": lambda answer: bool(HEADING.match(answer)),
    "is a table": is_table,
    "is HTML or XML": is_markup,
    "opens with a courtesy": lambda answer: bool(PREAMBLE.match(answer)),
    "is in capitals": is_upper,
    "has emoji": lambda answer: not answer.isascii() and bool(EMOJI.search(answer)),
    "shouts": lambda answer: "!!" in answer,
}
"""What an answer is as a whole, and its tone. Prose that holds a list or some code is prose."""
HABITS: dict[str, Callable[[str], bool]] = {
    "is casual": lambda answer: bool(SLANG.search(answer)),
    "begins in lower case": lambda answer: answer[:1].islower(),
    "has several paragraphs": lambda answer: "\n\n" in answer,
    "ends like a sentence": lambda answer: answer.endswith(SENTENCE_ENDS),
}
"""What answers of one form may have or lack."""
TRAITS = FORMS | HABITS
NAMED = {
    "is JSON": re.compile("json", re.IGNORECASE), "is HTML or XML": re.compile("html|xml", re.IGNORECASE),
    "is a table": re.compile(r"\btables?\b", re.IGNORECASE), "has emoji": re.compile("emoji", re.IGNORECASE),
}  # fmt: skip
"""How a prompt names a form; `table` is English, the others are written so in most languages."""


def asked_for(trait: str, prompt: str) -> bool:
    """Whether a prompt names the answer's form, or is in that form itself: then the answer follows it."""
    named = NAMED.get(trait)
    return bool(named and named.search(prompt)) or (trait in FORMS and FORMS[trait](prompt.strip()))


def traits_of(answers: Sequence[str]) -> NDArray[np.bool_]:
    """Shape (rows, traits)."""
    tests = list(TRAITS.values())
    found = np.empty((len(answers), len(tests)), dtype=np.bool_)
    for row, answer in enumerate(answers):
        text = answer.strip()
        found[row] = [test(text) for test in tests]
    return found


def minorities(
    traits: NDArray[np.bool_], rows: NDArray[np.int64] | None = None, nearest: NDArray[np.int32] | None = None
) -> list[tuple[str, NDArray[np.int64]]]:
    """(what sets them apart, rows) for each trait that few answers have, or few lack; the rarest first.

    Few of all, or in a form few of those to like requests: a file of many kinds has no one form. An unusual habit has
    to be rare both ways. `nearest` are the places in `rows` of the rows that ask most like each of `rows`.
    """
    if len(traits) < FEWEST_ROWS:
        return []
    found = []
    for (name, column), has in product(zip(TRAITS, traits.T, strict=True), (True, False)):
        odd = column if has else ~column
        rare = odd if 0 < odd.sum() <= RARE_SHARE * len(traits) else np.zeros_like(odd)
        if rows is not None and nearest is not None and RARE_SHARE * nearest.shape[1] >= 1:
            alone = np.zeros_like(odd)
            alone[rows] = odd[rows] & (odd[rows][nearest].mean(axis=1) <= RARE_SHARE)
            rare = rare | alone if name in FORMS else rare & alone
        if rare.any():
            found.append((name if has else f"unlike the others, not: {name}", np.flatnonzero(rare)))
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
