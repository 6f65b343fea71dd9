"""What a training method does against forgetting: measure it, replay the base's own answers, stop over the budget."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from residency.engine.checkpoint import Progress
from residency.engine.divergence import Remembered
from residency.engine.engine import FULL, Engine
from residency.engine.late import Loss
from residency.evals.retention import divergence_of
from residency.methods.order import rows_of_step
from residency.records import Interval, Metric, RunFolder

REPLAY_WEIGHT = 1.0
"""Of the mean divergence, beside the mean loss: the best of 1, 3 and 10 in arXiv 2605.26097."""
PATIENCE = 2
"""Measurements in a row over the budget after which training stops."""
REPLAY_SEED = 1_000_003
"""Replay walks through its prompts in another order than the rows."""


@dataclass(frozen=True, slots=True)
class Keep:
    watched: Sequence[Remembered]
    """Anchors that are measured at every evaluation."""
    replay: Sequence[Remembered]
    """What is trained on beside the rows; empty for none."""
    rows_per_replayed: int
    """One replayed prompt for so many rows of a step."""
    budget: float
    """Nats per token."""
    stop: bool
    """Whether training stops over the budget."""

    def over_budget(self, state: Progress) -> bool:
        return self.stop and state.measurements_over_budget >= PATIENCE


NOTHING = Keep((), (), 4, math.inf, stop=False)


def replay(engine: Engine, name: str, keep: Keep, step: int, batch_size: int, seed: int) -> Loss | None:
    """Adds the pull towards the base for the step after `step` others. Returns how far off the model was."""
    rows = replayed(keep, step, batch_size, seed)
    return engine.pull(name, rows, REPLAY_WEIGHT) if rows else None


def note_replay(run: RunFolder, keep: Keep, state: Progress, loss: Loss, batch_size: int) -> None:
    """Writes down what `replay` returned for the step that follows `state`."""
    epoch = (state.step + 1) * replayed_rows(keep, batch_size) / len(keep.replay)
    run.append("metrics.jsonl", Metric(step=state.step + 1, epoch=epoch, split="replay", loss=loss.mean,
                                       tokens=loss.tokens, seconds=state.seconds))  # fmt: skip


def replayed_rows(keep: Keep, batch_size: int) -> int:
    return max(1, round(batch_size / keep.rows_per_replayed))


def replayed(keep: Keep, step: int, batch_size: int, seed: int) -> list[Remembered]:
    """What is replayed beside the rows of that step."""
    if not keep.replay:
        return []
    count = replayed_rows(keep, batch_size)
    return [keep.replay[i] for i in rows_of_step(step, count, len(keep.replay), seed + REPLAY_SEED)]


def watch(engine: Engine, name: str, keep: Keep, state: Progress, epoch: float, run: RunFolder) -> Progress:
    """Measures the anchors, and counts the measurements in a row that were over the budget."""
    if not keep.watched:
        return state
    began = time.monotonic()
    found = forgotten(engine, name, keep)
    tokens = sum(len(one.base) for one in keep.watched)
    run.append("metrics.jsonl", Metric(step=state.step, epoch=epoch, split="anchors", loss=found.value, low=found.low,
                                       high=found.high, tokens=tokens, seconds=state.seconds))  # fmt: skip
    over = state.measurements_over_budget + 1 if found.value > keep.budget else 0
    if keep.stop and over == PATIENCE:
        run.say("over_budget", f"forgetting was over the budget of {keep.budget:g} nats per token twice in a row; "
                f"training stops at step {state.step}", level="warning", step=state.step)  # fmt: skip
    spent = time.monotonic() - began
    return state.model_copy(update={
        "measurements_over_budget": over, "seconds": state.seconds + spent,
        "retention_seconds": state.retention_seconds + spent,
    })  # fmt: skip


def forgotten(engine: Engine, name: str, keep: Keep) -> Interval:
    """How far `name` is from the base on the anchors that are watched, in nats per token."""
    return divergence_of(engine, None if name == FULL else name, keep.watched)[0]
