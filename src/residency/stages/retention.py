"""Forgetting over the life of a run: what the base says is remembered before, and compared with during and after."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from residency.data.messages import Rendered
from residency.engine.divergence import Remembered
from residency.engine.engine import FULL
from residency.errors import DataError
from residency.evals import retention
from residency.evals.retention import divergence_of, general_prompts, prompt_tokens, remember, without_overlap
from residency.evals.scale import delta_of, sweep
from residency.methods.keep import Keep
from residency.records import RetentionResult
from residency.stages.model import load_base
from residency.stages.prepare import Prepared
from residency.stages.session import Session

TASK_PROMPTS = 32
SWEPT_ROWS = 32
WATCHED = 16
"""Anchors that are measured at every evaluation of the training; all of them are measured after it."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What the base said before anything was trained."""

    sets: dict[str, list[Remembered]]
    """`anchors`, `task`, `must_keep`."""
    replay: list[Remembered]
    text: list[Rendered]
    text_losses: NDArray[np.float64]
    left_out: list[str]
    seconds: float

    def watched(self) -> list[Remembered]:
        """A few anchors, spread over the topics."""
        every = max(1, len(self.sets["anchors"]) // WATCHED)
        return self.sets["anchors"][::every][:WATCHED]

    def keep(self, session: Session) -> Keep:
        """What training is to measure and to replay."""
        settings = session.resolved.retention
        return Keep(
            watched=self.watched(),
            replay=self.replay,
            budget=settings.budget,
            stop=settings.stop,
        )


def remember_base(session: Session, prepared: Prepared) -> Memory | None:
    """Asks the base, or its cache. None where `retention.anchors` is 0. Raises DataError for a wrong general text."""
    settings, began = prepared.resolved.retention, time.monotonic()
    if not settings.anchors:
        return None
    texts = task_texts(prepared)
    anchors, left_out = without_overlap([one.prompt for one in general_prompts("anchors")][: settings.anchors], texts)
    replayed, _ = without_overlap([one.prompt for one in general_prompts("replay") if settings.replay], texts)

    def asked(prompts: Sequence[Sequence[int]]) -> list[Remembered]:
        # One seed for all runs: what a base says is cached once, whatever the run's own seed.
        return remember(session.engine, session.renderer, prompts, seed=0)

    def asked_texts(prompts: Sequence[str]) -> list[Remembered]:
        return asked([prompt_tokens(session.renderer, prompt) for prompt in prompts])

    own = prepared.resolved.method.name == "sft"
    sets = {
        "anchors": asked_texts(anchors),
        "task": asked(task_prompts(prepared.held_out or prepared.rows)) if own else [],
        "must_keep": asked_texts(settings.must_keep),
    }
    replay = asked_texts(replayed)
    text = read_text(session, settings.general_text) if settings.general_text else []
    losses = retention.losses_of(session.engine, None, text) if text else np.zeros(0)
    asked_for = sum(map(len, sets.values())) + len(replay)
    session.run.say("remembered", f"the base's answers to {asked_for} prompts are kept in the cache",
                    prompts=asked_for)  # fmt: skip
    if left_out:
        session.run.say("anchors_left_out", f"{len(left_out)} general prompts share words with the task and are no "
                        f"anchors; the first: {left_out[0]}", prompts=left_out)  # fmt: skip
    return Memory(sets, replay, text, losses, left_out, time.monotonic() - began)


def task_texts(prepared: Prepared) -> list[str]:
    examples = [*prepared.train_examples, *(one for part in prepared.tests.values() for one in part)]
    return [str(message["content"] or "") for example in examples for message in example.messages] + [
        example.text for example in examples if example.text is not None
    ]


def task_prompts(rows: Sequence[Rendered]) -> list[list[int]]:
    """What stands before the first answer of rows spread over the data, no prompt twice."""
    prompts = dict.fromkeys(tuple(row.input_ids[: int(row.trained.argmax())].tolist()) for row in rows)
    every = max(1, len(prompts) // TASK_PROMPTS)
    return [list(prompt) for prompt in list(prompts)[::every][:TASK_PROMPTS] if prompt]


def read_text(session: Session, name: str) -> list[Rendered]:
    try:
        windows = retention.text_windows(session.renderer, Path(name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"retention.general_text: {name} cannot be read: {error}", param="retention.general_text",
                        hint="name a text file in UTF-8") from error  # fmt: skip
    if not windows:
        raise DataError(f"retention.general_text: {name} is empty", param="retention.general_text")
    return windows


def scale_down(session: Session, name: str, prepared: Prepared, memory: Memory, found: RetentionResult) -> bool:
    """Tries smaller scales of what training changed, writes scale.json, and takes the proposed one if the run allows.

    `session` is the tuned one. Returns whether the model was changed.
    """
    if not prepared.held_out or not memory.sets["anchors"]:
        return False
    settings, base = session.resolved.retention, {}
    if name == FULL:
        base = dict(load_base(session.resolved, len(session.renderer.tokenizer))[0].named_parameters())
    delta = delta_of(session.engine, name, base)
    if delta is None:
        session.run.say("not_scaled", "no smaller scale was tried: between the base and this kind of adapter lies no "
                        "straight line")  # fmt: skip
        return False
    every = max(1, len(prepared.held_out) // SWEPT_ROWS)
    watched = memory.watched()
    # The few anchors of the sweep stand for all: the budget is theirs in the same proportion.
    here, _ = divergence_of(session.engine, session.adapter, watched)
    share = here.value / found.divergences["anchors"].value if found.divergences["anchors"].value else 1.0
    result = sweep(delta, prepared.held_out[::every][:SWEPT_ROWS], watched, settings.budget * share,
                   take=settings.scale == "take")  # fmt: skip
    session.run.write("scale.json", result)
    session.run.say("scale", f"adapter scale: {result.reason}", proposed=result.proposed, taken=result.taken)
    return result.taken


def measure_tuned(session: Session, memory: Memory, training_seconds: float) -> RetentionResult:
    """How far the tuned model is from the base now; `session` is the tuned one. Writes retention.json."""
    began = time.monotonic()
    decode = session.renderer.tokenizer.decode
    intervals, prompts = retention.measure(
        session.engine, session.adapter, memory.sets, lambda ids: str(decode(ids, skip_special_tokens=True))
    )
    ratio = None
    if memory.text:
        after = retention.losses_of(session.engine, session.adapter, memory.text)
        ratio = retention.perplexity_ratio(memory.text_losses, after, memory.text)
    result = RetentionResult(
        divergences=intervals,
        prompts=prompts,
        perplexity_ratio=ratio,
        left_out=memory.left_out,
        budget=session.resolved.retention.budget,
        seconds={"base": memory.seconds, "training": training_seconds, "after": time.monotonic() - began},
    )
    session.run.write("retention.json", result)
    found = intervals["anchors"]
    session.run.say("retention", f"forgetting: {found.value:.3f} [{found.low:.3f}, {found.high:.3f}] nats per token on "
                    f"{found.n} general prompts; the budget is {result.budget:g}")  # fmt: skip
    return result
