"""What a model prefers at each prompt of a card, and what it says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from residency.data.messages import Example, Message, Origin, Rendered
from residency.data.render import Renderer, renderer_for
from residency.engine.engine import Engine
from residency.engine.loss import Scores
from residency.errors import TemplateError
from residency.evals.card_records import Probe
from residency.progress import track

CARD = Origin("card", 1)


def margins(
    engine: Engine, adapter: str | None, renderer: Renderer, probes: Sequence[Probe], *, whole: Sequence[bool]
) -> list[float]:
    """By how much `answer` is likelier than the best of `others`, in nats.

    They are compared at the first token where two part: it is there that a model which writes word by word decides, and
    neither length nor wordiness counts. Where `whole`, by the mean over all tokens instead.
    """
    last = renderer_for(renderer.tokenizer, train_on="last_answer")
    asked = [
        candidates(last, probe) if entire else partings(candidates(last, probe))
        for probe, entire in zip(probes, whole, strict=True)
    ]
    means = iter([float(score.logprobs.mean(dtype=np.float64)) for score in scores(engine, adapter, asked)])
    found = []
    for rows, entire in zip(asked, whole, strict=True):
        values = [next(means) for _ in rows]
        if entire:
            found.append(values[0] - max(values[1:]))
        else:
            found.append(min(right - wrong for right, wrong in zip(values[::2], values[1::2], strict=True)))
    return found


def scores(engine: Engine, adapter: str | None, asked: Sequence[Sequence[Rendered]]) -> Iterator[Scores]:
    """On a CPU one prompt at a time, so that what its candidates share passes through the model once."""
    with track("comparing answers", len(asked)) as advance:
        if engine.device.type == "cpu":
            for rows in asked:
                yield from engine.logprobs(adapter, rows)
                advance()
        else:
            yield from engine.logprobs(adapter, [row for rows in asked for row in rows])
            advance(len(asked))


def candidates(last: Renderer, probe: Probe) -> list[Rendered]:
    """The prompt with each answer, the right one first; trained tokens are the answer's."""
    if probe.text:
        start = len(last.tokenizer(probe.text, verbose=False)["input_ids"])
        found = []
        for answer in (probe.answer, *probe.others):
            ids = np.asarray(last.tokenizer(f"{probe.text} {answer}\n", verbose=False)["input_ids"], dtype=np.int32)
            found.append(Rendered(ids, np.arange(len(ids)) >= start, CARD))
        return found
    turns = cast(list[Message], probe.messages)
    talk = Example(CARD, (), tuple(probe.tools))
    return [
        last.render(replace(talk, messages=(*turns, {"role": "assistant", "content": answer})))[-1]
        for answer in (probe.answer, *probe.others)
    ]


def partings(rows: Sequence[Rendered]) -> list[Rendered]:
    """For each other answer two rows that end where it and the right one part: the right token, and the other."""
    right, *others = rows
    found = []
    for other in others:
        length = min(len(right), len(other))
        same = right.input_ids[:length] == other.input_ids[:length]
        place = length - 1 if same.all() else int(same.argmin())
        only = np.arange(place + 1) == place
        found += [Rendered(row.input_ids[: place + 1], only, CARD) for row in (right, other)]
    return found


def prompt_ids(renderer: Renderer, probe: Probe) -> list[int]:
    """Raises TemplateError where the template cannot show the conversation."""
    if probe.text:
        return list(renderer.tokenizer(probe.text, verbose=False)["input_ids"])
    return renderer.prompt_ids(cast(list[Message], probe.messages), probe.tools)


def refused(renderer: Renderer, probe: Probe, context_length: int) -> str | None:
    """Why this prompt cannot be asked: the model's template knows no system turn, or its context is too short."""
    try:
        asked = prompt_ids(renderer, probe)
    except TemplateError as error:
        return error.message
    longest = max(len(renderer.tokenizer(each)["input_ids"]) for each in (probe.answer, *probe.others))
    return "the prompt is longer than the model's context" if len(asked) + longest + 8 > context_length else None
