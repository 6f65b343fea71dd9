"""Forgetting over the life of a run: what the base says is remembered before, and compared with during and after."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from residency.data.messages import Rendered
from residency.engine.divergence import Remembered
from residency.engine.engine import FULL
from residency.errors import DataError
from residency.evals import canaries, memorised, retention
from residency.evals.retention import general_prompts, prompt_tokens, remember_sets, spread, without_overlap
from residency.evals.scale import delta_of, sweep
from residency.methods.keep import NOTHING, Keep
from residency.records import RetentionResult, RunFolder
from residency.stages.model import load_base
from residency.stages.prepare import Prepared
from residency.stages.session import Session
from residency.wording import counted

SWEPT_ROWS = 32
ROWS_PER_REPLAYED = {"cuda": 4, "cpu": 8}
"""A quarter of the batch, as in arXiv 2605.26097; on a CPU half of that, as a quarter made a step take 1.46 times as
long."""
FEWEST = 8
TASK_SHARE, WATCHED_SHARE = 4, 8
"""One prompt of the task for so many anchors, and one anchor of so many that is measured at every evaluation of the
training; FEWEST at least. All are measured after it."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What the base said before anything was trained."""

    sets: dict[str, list[Remembered]]
    """`anchors`, `task`, `must_keep`."""
    replay: list[Remembered]
    text: list[Rendered]
    text_losses: NDArray[np.float64]
    probes: list[Rendered]
    drawn_out: list[bool]
    """Which of the `probes` the base goes on with word for word."""
    exposures: list[float]
    """Of the canaries, in bits, where there are any."""
    left_out: list[str]
    seconds: dict[str, float]
    """What asking the base took: `base` for what is measured, `replay_answers` for what is trained on."""

    def watched(self) -> list[Remembered]:
        """A few anchors, spread over the topics."""
        return spread(self.sets["anchors"], share_of(len(self.sets["anchors"]), WATCHED_SHARE))

    def keep(self, session: Session) -> Keep:
        """What training is to measure and to replay."""
        settings = session.resolved.retention
        return Keep(
            watched=self.watched(),
            replay=self.replay,
            rows_per_replayed=ROWS_PER_REPLAYED[session.engine.device.type],
            budget=settings.budget,
            stop=settings.stop,
        )


def remember_base(session: Session, prepared: Prepared) -> Memory | None:
    """Asks the base, or its cache. None where `retention.anchors` is 0. Raises DataError for a wrong general text."""
    settings, began = prepared.resolved.retention, time.monotonic()
    if not settings.anchors:
        return None
    texts = task_texts(prepared)
    anchors = [one.prompt for one in spread(general_prompts("anchors"), settings.anchors)]
    anchors, left_out = without_overlap(anchors, texts)
    own = prepared.resolved.method.name == "sft"
    task = task_prompts(prepared.held_out or prepared.rows, share_of(settings.anchors, TASK_SHARE)) if own else []
    measured = asked(session, [as_turns(session, anchors), task, as_turns(session, settings.must_keep)])
    sets = dict(zip(("anchors", "task", "must_keep"), measured, strict=True))
    measured_until = time.monotonic()
    replay = remember_replay(session, texts)
    replay_seconds = time.monotonic() - measured_until
    text = read_text(session, settings.general_text) if settings.general_text else []
    losses = retention.losses_of(session.engine, None, text) if text else np.zeros(0)
    probes = memorised.probes(prepared.rows)
    drawn_out = memorised.drawn_out(session.engine, None, probes)
    exposures = canary_exposures(session)
    asked_for = sum(map(len, sets.values())) + len(replay)
    session.run.say("remembered", f"the base's answers to {counted(asked_for, 'prompt')} are kept in the cache",
                    prompts=asked_for)  # fmt: skip
    if left_out:
        prompts = counted(len(left_out), "general prompt")
        session.run.say("anchors_left_out", f"no anchors, because they share words with the task: {prompts}; the "
                        f"first: {left_out[0]}", prompts=left_out)  # fmt: skip
    seconds = {"base": time.monotonic() - began - replay_seconds, "replay_answers": replay_seconds}
    return Memory(sets, replay, text, losses, probes, drawn_out, exposures, left_out, seconds)


def remember_replay(session: Session, task_texts: Sequence[str]) -> list[Remembered]:
    """What the base says to the prompts that are replayed; nothing where the run replays none."""
    settings = session.resolved.retention
    prompts = [one.prompt for one in spread(general_prompts("replay"), settings.anchors)] if settings.replay else []
    return asked(session, [as_turns(session, without_overlap(prompts, task_texts)[0])])[0]


def replay_alone(session: Session, prepared: Prepared) -> Keep:
    """The run's replay without what it measures, for training of which only the task is of interest."""
    rows_per_replayed = ROWS_PER_REPLAYED[session.engine.device.type]
    return replace(NOTHING, replay=remember_replay(session, task_texts(prepared)), rows_per_replayed=rows_per_replayed)


def asked(session: Session, sets: Sequence[Sequence[Sequence[int]]]) -> list[list[Remembered]]:
    # One seed for all runs: what a base says is cached once, whatever the run's own seed.
    longest = session.resolved.retention.answer_tokens
    return remember_sets(session.engine, session.renderer, sets, longest=longest, seed=0)


def as_turns(session: Session, prompts: Sequence[str]) -> list[list[int]]:
    return [prompt_tokens(session.renderer, prompt) for prompt in prompts]


def canary_exposures(session: Session) -> list[float]:
    config = session.resolved
    return canaries.exposures(session.engine, session.adapter, session.renderer, config.retention.canaries,
                              config.train.seed, chat=config.method.name == "sft")  # fmt: skip


def with_canaries(prepared: Prepared, run: RunFolder) -> Prepared:
    """The rows, and among them the canaries that the run asks for."""
    config = prepared.resolved
    added = canaries.canary_rows(prepared.renderer, config.retention.canaries, config.train.seed,
                                 chat=config.method.name == "sft")  # fmt: skip
    if not added:
        return prepared
    secrets = counted(len(added), "made-up secret")
    run.say("canaries", f"trained on with the rows: {secrets}, which the result will have seen",
            level="warning", rows=len(added))  # fmt: skip
    return replace(prepared, rows=[*prepared.rows, *added], counts=prepared.counts | {"canaries": len(added)})


def task_texts(prepared: Prepared) -> list[str]:
    examples = [*prepared.train_examples, *(one for part in prepared.tests.values() for one in part)]
    return [str(message["content"] or "") for example in examples for message in example.messages] + [
        example.text for example in examples if example.text is not None
    ]


def share_of(anchors: int, share: int) -> int:
    return max(FEWEST, anchors // share)


def task_prompts(rows: Sequence[Rendered], count: int) -> list[list[int]]:
    """What stands before the first answer of rows spread over the data, no prompt twice."""
    prompts = dict.fromkeys(tuple(row.input_ids[: int(row.trained.argmax())].tolist()) for row in rows)
    return [list(prompt) for prompt in spread([prompt for prompt in prompts if prompt], count)]


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
    # The few anchors of the sweep stand for all: the budget is theirs in the same proportion.
    each = [one for one in found.prompts if one.set == "anchors"]
    few = spread(each, share_of(len(each), WATCHED_SHARE))
    here = sum(one.divergence * one.tokens for one in few) / sum(one.tokens for one in few)
    whole = found.divergences["anchors"].value
    result = sweep(delta, spread(prepared.held_out, SWEPT_ROWS), memory.watched(),
                   settings.budget * (here / whole if whole else 1.0), take=settings.scale == "take")  # fmt: skip
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
        memorised=memorised.memorised(
            memory.drawn_out, memorised.drawn_out(session.engine, session.adapter, memory.probes)
        ),
        exposure=canaries.summed_up(memory.exposures, canary_exposures(session)),
        left_out=memory.left_out,
        budget=session.resolved.retention.budget,
        seconds=memory.seconds | {"training": training_seconds, "after": time.monotonic() - began},
    )
    session.run.write("retention.json", result)
    found = intervals["anchors"]
    session.run.say("retention", f"forgetting: {found.value:.3f} [{found.low:.3f}, {found.high:.3f}] nats per token on "
                    f"{counted(found.n, 'general prompt')}; the budget is {result.budget:g}")  # fmt: skip
    return result
