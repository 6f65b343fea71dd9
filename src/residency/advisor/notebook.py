"""Answers asked for once and kept: whatever was answered before a stop is not asked again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from residency import durable
from residency.data.messages import Message
from residency.errors import RunError
from residency.evals.run import Completion


@dataclass(frozen=True, slots=True)
class Question:
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    temperature: float = 0.0
    sample: int = 0
    """Which of several answers to the same messages this is."""


Ask: TypeAlias = Callable[[Sequence[Question]], Iterator[tuple[int, Completion]]]
"""Answers in any order as (position, answer), each as soon as it is there."""


class Notebook:
    """One model's answers in a file, one a line; `model` is all that decides an answer besides the question."""

    def __init__(self, path: Path, model: dict[str, Any], ask: Ask) -> None:
        self.path, self.model, self.ask = path, model, ask
        self.asked, self.began = 0, time.monotonic()
        self._known: dict[str, Completion] = {}
        for line in durable.read_jsonl(path):
            try:
                own = line.get("own_temperature", False)
                self._known[line["key"]] = Completion(line["text"], line["finished"], line["tokens"], own)
            except KeyError as error:
                raise RunError(f"{path} is damaged: a line has no {error}", param=str(path),
                               hint="remove the file to ask everything again") from None  # fmt: skip

    def answers(self, questions: Sequence[Question], advance: Callable[..., None]) -> list[Completion]:
        """One answer per question, in order; those that are not known yet are asked for and written down."""
        keys = [self._key(question) for question in questions]
        open_keys = list(dict.fromkeys(key for key in keys if key not in self._known))
        first = dict(zip(reversed(keys), reversed(questions), strict=True))
        advance(len(keys) - len(open_keys))
        for position, answer in self.ask([first[key] for key in open_keys]):
            key = open_keys[position]
            durable.append_line(self.path, json.dumps({"key": key, **asdict(answer)}, ensure_ascii=False))
            self._known[key] = answer
            self.asked += 1
            advance()
        return [self._known[key] for key in keys]

    def seconds_left(self, open_answers: int) -> float | None:
        """At the pace so far; null before anything was asked."""
        return (time.monotonic() - self.began) / self.asked * open_answers if self.asked else None

    def _key(self, question: Question) -> str:
        text = json.dumps([self.model, asdict(question)], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """As an endpoint takes them: `weight` is ours."""
    return [{key: value for key, value in message.items() if key != "weight"} for message in messages]
