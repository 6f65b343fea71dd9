"""What is wrong with a wrong answer, by rule and without a judge.

    parse       the reference is JSON, and the answer holds none
    format      the right answer in another dress: case, punctuation, quotes, code fences, numbers as text
    style       the right answer among other words, or in another order
    convention  wrong where the task's own conventions decide: a label or field value that other answers have, or a word
                of the question in the wrong place. Examples teach this
    content     anything else: what is right stands neither in the question nor in other answers

The first four are form: examples teach them, knowledge does not.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from json import JSONDecodeError, JSONDecoder
from typing import Any, Literal, TypeAlias, get_args

from residency.data.messages import Example
from residency.graders.json_match import NOT_JSON, equal, parse

Mistake: TypeAlias = Literal["parse", "format", "style", "convention", "content"]
MISTAKES: tuple[Mistake, ...] = get_args(Mistake)
FORM: tuple[Mistake, ...] = ("parse", "format", "style", "convention")
MOST_LABELS = 50
FEWEST_LABELS = 3
"""Of two labels a wrong one is a wrong judgement, not an unknown convention."""
ALIKE = 90.0
"""Of 100 by rapidfuzz's token set ratio: the same words in another order, or with a few more."""
MISSING = object()
DECODER = JSONDecoder()
PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, " "))


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What answers of this task are made of."""

    labels: frozenset[str]
    """All answers there are, where they are few; else empty."""
    fields: dict[str, frozenset[str]]
    """By the path of a JSON field, the values it has in the examples."""


def read_vocabulary(references: Sequence[str]) -> Vocabulary:
    fields: dict[str, set[str]] = {}
    for reference in references:
        value = parse(reference)
        if isinstance(value, dict | list):
            for path, leaf in leaves("", value):
                fields.setdefault(path, set()).add(plain(str(leaf)))
    distinct = frozenset(map(plain, references))
    labels = distinct if not fields and len(distinct) <= min(MOST_LABELS, len(references) / 3) else frozenset()
    return Vocabulary(labels, {path: frozenset(values) for path, values in fields.items()})


def mistake_of(output: str, example: Example, question: str, vocabulary: Vocabulary) -> Mistake:
    """The kind of a wrong answer to `question`."""
    reference = parse(example.reference)
    if isinstance(reference, dict | list):
        return _mistake_in_json(output, reference, question, vocabulary)
    return _mistake_in_text(output, example.reference, vocabulary)


def _mistake_in_json(output: str, reference: Any, question: str, vocabulary: Vocabulary) -> Mistake:
    found = find_json(output)
    if found is NOT_JSON:
        return "parse"
    left, right = dict(leaves("", found)), dict(leaves("", reference))
    wrong = [path for path in left | right if not equal(left.get(path, MISSING), right.get(path, MISSING))]
    if all(_same_text(left.get(path, MISSING), right.get(path, MISSING)) for path in wrong):
        return "format"
    known = sum(_is_convention(path, right.get(path, MISSING), question, vocabulary) for path in wrong)
    return "convention" if 2 * known >= len(wrong) else "content"


def _is_convention(path: str, wanted: Any, question: str, vocabulary: Vocabulary) -> bool:
    """Whether the right value is one the task's answers are made of, or words of the question; no value is one, too."""
    if wanted is MISSING:
        return True
    text = plain(str(wanted))
    return text in vocabulary.fields.get(path, ()) or _within(text, plain(question))


def _mistake_in_text(output: str, reference: str, vocabulary: Vocabulary) -> Mistake:
    from rapidfuzz.fuzz import token_set_ratio

    said, wanted = plain(output), plain(reference)
    if said == wanted:
        return "format"
    numbers = re.findall(r"\d+", said)
    if wanted.isdecimal():  # a number may come up on the way; the last one is the answer
        if numbers and numbers[-1] == wanted:
            return "style"
    elif wanted and (_within(wanted, said) or token_set_ratio(said, wanted) >= ALIKE):
        return "style"
    if vocabulary.labels and said not in vocabulary.labels:
        return "format"
    return "convention" if len(vocabulary.labels) >= FEWEST_LABELS else "content"


def _within(part: str, whole: str) -> bool:
    return f" {part} " in f" {whole} "


def _same_text(left: Any, right: Any) -> bool:
    return MISSING not in (left, right) and plain(str(left)) == plain(str(right))


def plain(text: str) -> str:
    """Without case, punctuation, code fences and superfluous space."""
    text = re.sub(r"```\w*", " ", text).casefold().translate(PUNCTUATION)
    return " ".join(text.split())


def find_json(text: str) -> Any:
    """The first JSON object or list in a text, or NOT_JSON."""
    for match in re.finditer(r"[\[{]", text):
        try:
            return DECODER.raw_decode(text, match.start())[0]
        except (JSONDecodeError, RecursionError):
            continue
    return NOT_JSON


def leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every innermost value of nested objects; a list is one."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from leaves(f"{path}.{key}" if path else str(key), part)
    else:
        yield path, value


def agreement(outputs: Sequence[str]) -> float:
    """The share of pairs of answers that say the same, JSON compared as JSON."""
    keys = [_key(output) for output in outputs]
    pairs = [(a, b) for i, a in enumerate(keys) for b in keys[:i]]
    return sum(a == b for a, b in pairs) / len(pairs)


def _key(output: str) -> str:
    value = parse(output)
    return plain(output) if value is NOT_JSON else repr(sorted((path, repr(leaf)) for path, leaf in leaves("", value)))
