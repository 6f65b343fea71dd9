"""A request's rows, and the pieces of their answers as they come."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field

from residency.errors import RequestError, ResidencyError
from residency.inference.grammar import Constraint
from residency.inference.host import Place
from residency.inference.requests import Asked
from residency.inference.rows import Manner, Piece, Row

MOST_ROWS = 2048
"""Answers that one request may ask for."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One prompt and how it is to be answered."""

    prompt: list[int]
    max_new_tokens: int | None
    param: str
    """The request's field that the prompt came from."""
    choices: int
    top_logprobs: int | None = None
    prompt_logprobs: bool = False
    constraint: Constraint | None = None
    with_calls: bool = False


@dataclass(eq=False, slots=True)
class Work:
    """Made in the event loop; the decoding thread hands the pieces over."""

    rows: list[Row] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _arrived: asyncio.Queue[Piece | ResidencyError] = field(default_factory=asyncio.Queue)

    def emit(self, arrived: Piece | ResidencyError) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, arrived)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Until every row has ended. Raises the first error of any."""
        going = len(self.rows)
        while going:
            arrived = await self._arrived.get()
            if isinstance(arrived, ResidencyError):
                raise arrived
            going -= arrived.finish is not None
            yield arrived

    def cancel(self) -> None:
        """Nobody waits any more: the rows leave before the next step."""
        for row in self.rows:
            row.finished = True


def add_rows(work: Work, plans: Sequence[Plan], asked: Asked, place: Place) -> None:
    """Raises RequestError where a prompt does not fit or a setting cannot be followed."""
    seed = asked.seed if asked.seed is not None else random.SystemRandom().getrandbits(64)
    if (count := sum(plan.choices for plan in plans)) > MOST_ROWS:
        raise RequestError(f"{count} answers in one request are too many: at most {MOST_ROWS}", param="n",
                           code="invalid_value")  # fmt: skip
    for plan in plans:
        work.rows += _rows(work, plan, asked, place, seed)


def _rows(work: Work, plan: Plan, asked: Asked, place: Place, seed: int) -> Iterator[Row]:
    language, context = place.language, place.loaded.decoder.batch.context_tokens
    room = context - len(plan.prompt)
    if room < 0 or (room == 0 and plan.max_new_tokens != 0):
        raise RequestError(
            f"This model's maximum context length is {context} tokens. However, your {plan.param} resulted in "
            f"{len(plan.prompt)} tokens. Please reduce the length of the {plan.param}",
            param=plan.param, code="context_length_exceeded",
        )  # fmt: skip
    if wrong := [id for id in asked.logit_bias if not 0 <= id < language.vocabulary]:
        raise RequestError(f"Invalid key in 'logit_bias': {wrong[0]} is no token id of this model",
                           param="logit_bias", code="invalid_value")  # fmt: skip
    manner = Manner(
        max_new_tokens=room if plan.max_new_tokens is None else min(plan.max_new_tokens, room),
        stop_ids=language.stop_ids,
        temperature=asked.temperature,
        top_p=asked.top_p,
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        logit_bias=asked.logit_bias,
        top_logprobs=plan.top_logprobs,
        prompt_logprobs=plan.prompt_logprobs,
        vocabulary=language.vocabulary,
    )
    for _ in range(plan.choices):
        index = len(work.rows)
        yield Row(
            index, plan.prompt, manner, language.stream(asked.stops, with_calls=plan.with_calls), work.emit,
            random.Random(f"{seed}:{index}"), place.adapter, language.size,
            plan.constraint.copy() if plan.constraint else None,
        )  # fmt: skip


def usage(prompts: int, work: Work) -> dict[str, int]:
    """`prompts`: tokens of the prompts, each counted once."""
    completions = sum(row.generated for row in work.rows)
    return {"prompt_tokens": prompts, "completion_tokens": completions, "total_tokens": prompts + completions}
