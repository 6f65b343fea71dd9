"""What a run asks of the engine at each step, and who carries it out: for one run alone, or for several at once.

A run is a generator. It yields `Gradients` and is sent their Loss, then `Update` and is sent the gradients' norms, by
name and still unread; all else of its life is between the two. Alone, each is carried out as it comes. Runs on one
engine that shares passes are held in step, and what they ask for goes through the base together.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

from residency.data.messages import Rendered
from residency.engine.engine import Engine
from residency.engine.optim import StepSettings

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Gradients:
    """Those of these rows, under the engine's `name`."""

    engine: Engine
    name: str
    rows: Sequence[Rendered]


@dataclass(frozen=True, slots=True)
class Update:
    """An optimizer step by what was gathered."""

    engine: Engine
    name: str
    settings: StepSettings


Run: TypeAlias = Generator[Gradients | Update, Any, R]
GoOn: TypeAlias = Callable[[], Gradients | Update]


def alone(run: Run[R]) -> R:
    """Carries it to its end."""
    go_on: GoOn = partial(run.send, None)
    while True:
        try:
            asked = go_on()
        except StopIteration as end:
            result: R = end.value
            return result
        go_on = answered({run: asked})[run]


def together(runs: Sequence[Run[None]]) -> None:
    """Carries all to their ends: side by side where their engine shares passes; else one after another, because a pass
    saves nothing there and the first result is there sooner. A run must catch its own errors; what a shared pass
    raises ends all of them.
    """
    left, asked = list(runs), dict[Run[None], Gradients | Update]()

    def take(run: Run[None], go_on: GoOn) -> None:
        try:
            asked[run] = go_on()
        except StopIteration:
            left.remove(run)
            asked.pop(run, None)

    while left:
        first = left[0]
        if first not in asked:  # whether it shares passes is known when it has an engine
            take(first, partial(first.send, None))
            continue
        turn = list(left) if asked[first].engine.shares_passes else [first]
        for run in [run for run in turn if run not in asked]:
            take(run, partial(run.send, None))
        for _ in (Gradients, Update):
            for run, go_on in answered({run: asked[run] for run in turn if run in asked}).items():
                take(run, go_on)


def answered(asked: Mapping[Run[Any], Gradients | Update]) -> dict[Run[Any], GoOn]:
    """How each goes on: with its answer, or with the error that it alone has met."""
    try:
        answers = carry_out(list(asked.values()))
    except BaseException as error:
        if len(asked) > 1:
            raise
        return {run: partial(run.throw, error) for run in asked}
    return {run: partial(run.send, answer) for run, answer in zip(asked, answers, strict=True)}


def carry_out(asked: Sequence[Gradients | Update]) -> list[Any]:
    """One answer each; all ask for the same, of the same engine."""
    if not asked:
        return []
    engine = asked[0].engine
    rows = {one.name: one.rows for one in asked if isinstance(one, Gradients)}
    settings = {one.name: one.settings for one in asked if isinstance(one, Update)}
    if settings:
        return [engine.step(settings)] * len(asked)
    losses = engine.forward_backward(rows)
    return [losses[name] for name in rows]
