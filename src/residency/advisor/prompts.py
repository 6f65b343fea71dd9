"""The prompts an untuned model is tried with: a fair "before" is the best of several, not the first that came to mind.

How a prompt is worded moves accuracy by tens of points (arXiv 2310.11324).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from residency.advisor.mistakes import leaves, read_vocabulary
from residency.data.messages import Example, Message
from residency.graders.json_match import parse

SHOTS = (4, 8)
CONTEXT = "Answer with the help of this text:\n{context}\n\n"
ANSWER_ONLY = "Give only the answer itself: no explanation, no greeting, nothing before it and nothing after it."
STEP_BY_STEP = "Think it through and check the result, but write down only the final answer."
LONGEST_LIST = 20
SHOWN_ANSWERS = 3


@dataclass(frozen=True, slots=True)
class Prompt:
    name: str
    instruction: str | None = None
    """Added to the row's own system text, or before the question where it has none."""
    shots: tuple[Example, ...] = ()
    """Worked examples, put before the question."""


def prompts(train: Sequence[Example], own: Sequence[str], seed: int) -> list[Prompt]:
    """Seven of ours, the plainest first, and the user's `own` instructions; worked examples come from `train`."""
    references = [example.reference for example in train]
    order = random.Random(seed).sample(list(train), len(train))
    return [
        Prompt("zero-shot"),
        *(Prompt(f"your instruction {number}", text) for number, text in enumerate(own, 1)),
        Prompt("answer only", ANSWER_ONLY),
        Prompt("step by step", STEP_BY_STEP),
        Prompt("form described", describe(references)),
        Prompt("form shown", show(order)),
        *(Prompt(f"{k}-shot", shots=tuple(order[:k])) for k in SHOTS if len(order) >= k),
    ]


def conversation(example: Example, prompt: Prompt, context_field: str | None = None) -> tuple[Message, ...]:
    """The turns to be answered; with `context_field`, each question has its gold context before it."""
    turns = [
        turn
        for shot in prompt.shots
        for turn in (*asked(shot, context_field), shot.messages[-1])
        if turn["role"] not in ("system", "developer")
    ]
    own = asked(example, context_field)
    head = 1 if own and own[0]["role"] in ("system", "developer") else 0
    found = [*own[:head], *(cast(Message, {k: v for k, v in t.items() if k != "weight"}) for t in turns), *own[head:]]
    return tuple(instructed(found, prompt.instruction) if prompt.instruction else found)


def instructed(turns: list[Message], instruction: str) -> list[Message]:
    """After the system text where there is one, else before the last question."""
    if not turns:
        return [Message(role="user", content=instruction)]
    has_system = turns[0]["role"] in ("system", "developer")
    place = 0 if has_system else last_user(turns)
    own = turns[place]["content"] or ""
    text = f"{own}\n\n{instruction}" if has_system else f"{instruction}\n\n{own}"
    return [*turns[:place], turns[place] | {"content": text}, *turns[place + 1 :]]


def asked(example: Example, context_field: str | None) -> list[Message]:
    """The row's prompt, with its context in the last question where it has one."""
    turns, context = list(example.prompt), context_of(example, context_field)
    if context and turns:
        place = last_user(turns)
        text = CONTEXT.format(context=context) + (turns[place]["content"] or "")
        turns[place] = turns[place] | {"content": text}
    return turns


def context_of(example: Example, field: str | None) -> str | None:
    value = example.fields.get(field) if field else None
    if isinstance(value, list):
        value = "\n".join(map(str, value))
    return value if isinstance(value, str) and value.strip() else None


def last_user(turns: Sequence[Message]) -> int:
    users = [place for place, turn in enumerate(turns) if turn["role"] == "user"]
    return users[-1] if users else len(turns) - 1


def describe(references: Sequence[str]) -> str:
    """The form of the answers in words, read off the answers."""
    vocabulary, values = read_vocabulary(references), [parse(reference) for reference in references]
    if vocabulary.fields and all(isinstance(value, dict | list) for value in values):
        return _describe_json(values)
    if vocabulary.labels and len(vocabulary.labels) <= LONGEST_LIST:
        return f"Answer with exactly one of these and nothing else: {' | '.join(sorted(set(references)))}"
    words = sorted(len(reference.split()) for reference in references)
    low, high = words[0], words[-1]
    length = f"{low}" if low == high else f"{low} to {high}"
    return f"Your whole answer has {length} word{'' if high == 1 else 's'}, and is nothing but the answer."


def _describe_json(values: Sequence[Any]) -> str:
    seen: dict[str, list[str]] = {}
    for value in values:
        for path, leaf in leaves("", value):
            seen.setdefault(path, []).append(str(leaf))
    said = []
    for path, found in seen.items():
        distinct = sorted(set(found))
        closed = len(distinct) <= LONGEST_LIST and len(distinct) <= len(found) / 2
        said.append(f"{path or 'the value'} ({' | '.join(distinct)})" if closed else path or "the value")
    return f"Answer with JSON on one line and nothing else. Fields, each only where it applies: {'; '.join(said)}"


def show(order: Sequence[Example]) -> str:
    answers = list(dict.fromkeys(example.reference for example in order))[:SHOWN_ANSWERS]
    return "Write the answer in exactly the form of these answers to other questions:\n" + "\n".join(answers)
