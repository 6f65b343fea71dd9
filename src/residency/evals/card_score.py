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
    asked = [candidates(last, probe) for probe in probes]
    found = np.zeros(len(probes))
    entire = [i for i, each in enumerate(whole) if each]
    for i, means in zip(entire, mean_logprobs(engine, adapter, [asked[i] for i in entire]), strict=True):
        found[i] = means[0] - max(means[1:])
    parting = [i for i, each in enumerate(whole) if not each]
    for i, margin in zip(parting, choices(engine, adapter, [asked[i] for i in parting]), strict=True):
        found[i] = margin
    return [float(each) for each in found]


def choices(engine: Engine, adapter: str | None, asked: Sequence[Sequence[Rendered]]) -> list[float]:
    """By how much the right token is likelier than the likeliest wrong one where they part, in nats: the least of it
    over the places. All of those stand in the right answer, which passes through the model once."""
    parting = [partings(rows) for rows in asked]
    most = max((len(wrong) for places in parting for wrong in places.values()), default=0)
    rows, tokens = [], []
    for (right, *_), places in zip(asked, parting, strict=True):
        where = sorted(places)
        rows.append(replace(right, trained=np.isin(np.arange(len(right)), where)))
        wrong = [places[at] + places[at][:1] * (most - len(places[at])) for at in where]
        tokens.append(np.column_stack([right.input_ids[where], wrong]).astype(np.int64))
    found = engine.choices(adapter, rows, tokens)
    return [float((each[:, 0] - each[:, 1:].max(axis=1)).min()) for each in found]


def mean_logprobs(engine: Engine, adapter: str | None, asked: Sequence[Sequence[Rendered]]) -> Iterator[list[float]]:
    """Of each prompt's candidates. On a CPU one prompt at a time, so that what they share passes through it once."""
    with track("comparing answers", len(asked)) as advance:
        scores: Iterator[Scores]
        if engine.device.type == "cpu":
            scores = (score for rows in asked for score in engine.logprobs(adapter, rows))
        else:
            scores = iter(engine.logprobs(adapter, [row for rows in asked for row in rows]))
        for rows in asked:
            yield [float(next(scores).logprobs.mean(dtype=np.float64)) for _ in rows]
            advance()


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


def partings(rows: Sequence[Rendered]) -> dict[int, list[int]]:
    """Where the right answer, which comes first, parts from the others, and what they say there instead."""
    right, *others = (row.input_ids for row in rows)
    found: dict[int, list[int]] = {}
    for other in others:
        length = min(len(right), len(other))
        same = right[:length] == other[:length]
        place = length - 1 if same.all() else int(same.argmin())
        found.setdefault(place, []).append(int(other[place]))
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
