"""Measures a model: answers to every row of a test, graded."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from residency.config.graders import Grader
from residency.data.messages import Example, Message
from residency.errors import DataError
from residency.evals.stats import bootstrap_mean, wilson
from residency.graders.score import check_graders, grade_all
from residency.records import Answer, EvalResult, Grade, Interval
from residency.wording import counted


@dataclass(frozen=True, slots=True)
class Completion:
    """One generated answer."""

    text: str
    finished: bool
    """Whether the model ended its turn itself, rather than at the token limit."""
    tokens: int
    own_temperature: bool = False
    """Whether the model takes no temperature, and answered at one of its own."""


def evaluate(
    test: str,
    model: str,
    examples: list[Example],
    generate: Callable[[list[Example]], list[Completion]],
    graders: list[Grader],
) -> EvalResult:
    """Generates for all examples and grades the answers.

    Raises GraderError before anything is generated where a grader is wrong, and DataError where there are no rows.
    """
    if not examples:
        raise DataError(f"the test `{test}` has no rows", param=test, hint="give it at least one row")
    check_graders(graders)
    started = time.monotonic()
    completions = generate(examples)
    grades = grade_all(
        graders, [as_item(example) for example in examples], [completion.text for completion in completions]
    )
    answers = [
        Answer(
            row=row,
            prompt=last_question(example),
            reference=example.reference,
            output=completion.text,
            finished=completion.finished,
            tokens=completion.tokens,
            grades=graded,
        )
        for row, (example, completion, graded) in enumerate(zip(examples, completions, grades, strict=True))
    ]
    return EvalResult(
        test=test,
        model=model,
        summaries={grader.name: summarise([graded[grader.name] for graded in grades]) for grader in graders},
        answers=answers,
        seconds=time.monotonic() - started,
    )


def as_item(example: Example) -> dict[str, Any]:
    """What graders know as `item`: the row's own fields, and the answer as `reference` unless the row has its own."""
    return {"reference": example.reference, **example.fields}


def summarise(grades: list[Grade]) -> Interval:
    """The share that passed (Wilson) where grades say so, else the mean score (bootstrap)."""
    passes = [graded.passed for graded in grades if graded.passed is not None]
    if len(passes) == len(grades):
        return wilson(sum(passes), len(passes))
    return bootstrap_mean([graded.score for graded in grades])


def last_question(example: Example) -> str:
    """The last user turn, or whatever came last where no user spoke."""
    users = [message for message in example.prompt if message["role"] == "user"]
    turns = users or list(example.prompt)
    return (turns[-1]["content"] or "") if turns else ""


def few_shot_examples(train: list[Example], k: int, seed: int) -> tuple[Message, ...]:
    """`k` solved training rows as turns to put before the prompt, after its system turn; the same for the same seed."""
    conversations = [example for example in train if example.messages]
    if k > len(conversations):
        there = counted(len(conversations), "training conversation")
        raise DataError(
            f"{counted(k, 'example')} for the prompt cannot come from {there}",
            param="eval.few_shot",
            hint=f"set eval.few_shot to {len(conversations)} or less",
        )
    chosen = random.Random(seed).sample(conversations, k)
    return tuple(
        cast(Message, {key: value for key, value in message.items() if key != "weight"})
        for example in chosen
        for message in example.messages
        if message["role"] not in ("system", "developer")
    )
