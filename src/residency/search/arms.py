"""Arms: candidates trained side by side, each with an adapter of its own on one frozen base.

An arm is trained exactly as it would be alone: the same rows in the same order, the same replay and schedule, its own
clipping, optimizer and random numbers. On a CPU the two are equal to the bit; where arms share passes, as on a GPU,
products round in another order.

In the middle of its training a high rate looks worse than it is, and swings from step to step. So arms are compared
either by the mean of their last weights (arXiv 2209.14981), which costs no pass and is the steadier one: it says who is
among the best; or cooled down, a copy going on for some steps while its rate falls to zero (arXiv 2405.18392), which is
nearer to what each will be in the end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from residency.config.model import Train
from residency.config.section import Final
from residency.config.steps import total_steps
from residency.data.messages import Rendered
from residency.engine.checkpoint import Progress, random_state, set_random_state
from residency.engine.engine import Engine
from residency.engine.late import Loss
from residency.engine.optim import StepSettings, learning_rate_at
from residency.errors import TrainingError
from residency.methods.keep import NOTHING, REPLAY_WEIGHT, Keep, note_replay, replay, replayed
from residency.methods.order import rows_of_step
from residency.methods.row_losses import note_losses
from residency.methods.sft import advanced, require_finite, require_no_explosion
from residency.records import Metric, RunFolder

COOL_DOWN_SHARE = 0.1
"""Of the steps so far."""
LONGEST_COOL_DOWN_SHARE = 0.02
"""Of the whole run."""
FEWEST_COOL_DOWN_STEPS = 3
SUMS = "sums.safetensors"
MEAN_SHARE = 0.25
"""The mean is that of the last so many of the steps so far: with less it swings, with more it lags behind."""


@dataclass(slots=True, eq=False)
class Arm:
    name: str
    """Of its folder, and of its adapter in the engine."""
    settings: Train[Final]
    rows: Sequence[Rendered]
    record: RunFolder
    """Where its metrics go."""
    state: Progress
    failure: str | None = None
    """Why it cannot go on: what would have ended a run."""
    engine_name: str = ""
    """Where it is not `name`: arms of full fine-tuning take turns as the engine's model."""
    keep: Keep = NOTHING
    """What is replayed beside its rows."""
    sums: torch.Tensor | None = None
    """Of its weights after each of the last steps, shape (weights,), while a mean of them is made."""

    def __post_init__(self) -> None:
        self.engine_name = self.engine_name or self.name

    @property
    def rate(self) -> float:
        assert not isinstance(self.settings.learning_rate, str)
        return self.settings.learning_rate

    @property
    def total(self) -> int:
        return total_steps(self.settings, len(self.rows))

    def batch(self, step: int) -> list[Rendered]:
        chosen = rows_of_step(step, self.settings.batch_size, len(self.rows), self.settings.seed)
        return [self.rows[i] for i in chosen]

    def rate_at(self, step: int) -> float:
        return learning_rate_at(step, self.total, self.rate, self.settings.schedule, self.settings.warmup_share)


@dataclass(frozen=True, slots=True)
class Score:
    """Held-out rows under one arm, row by row, so that arms can be compared in pairs."""

    losses: NDArray[np.float64]
    """Shape (rows,): the sum over the row's trained tokens, in nats."""
    tokens: NDArray[np.float64]

    @property
    def mean(self) -> float:
        return float(self.losses.sum() / max(1.0, self.tokens.sum()))

    @property
    def noted(self) -> float | None:
        """The mean for a record, which holds no NaN: None where the loss was lost."""
        return self.mean if math.isfinite(self.mean) else None


def standard_error(one: Score, other: Score) -> float:
    """Of the difference of the two means over the same rows (a ratio of sums: linearised)."""
    difference = one.losses - other.losses
    count, tokens = len(difference), one.tokens.sum()
    residual = difference - difference.sum() / tokens * one.tokens
    return float(math.sqrt(count / max(1, count - 1) * float((residual**2).sum())) / tokens)


@dataclass(frozen=True, slots=True)
class Taken:
    """A step of some arms whose numbers have not been read: a device may still be working on it."""

    arms: Sequence[Arm]
    batches: Mapping[str, Sequence[Rendered]]
    """This and the rest by the engine's names."""
    rates: Mapping[str, float]
    losses: Mapping[str, Loss]
    replayed: Mapping[str, Loss | None]
    norms: Mapping[str, float]
    seconds: float
    """That handing it to the device took; on a CPU, all of it. Compiling is not counted."""


def train_step(engine: Engine, arms: Sequence[Arm]) -> None:
    """One step of each arm. One whose loss is lost gets a `failure` instead; the others go on."""
    note(engine, take_step(engine, arms))


def take_step(engine: Engine, arms: Sequence[Arm], *, ahead: int = 0) -> Taken:
    """One step of each arm, handed to the device, `ahead` steps after what was noted."""
    began, compiling = time.monotonic(), engine.compile_seconds
    batches = {arm.engine_name: arm.batch(arm.state.step + ahead) for arm in arms}
    rates = {arm.engine_name: arm.rate_at(arm.state.step + ahead) for arm in arms}
    losses: dict[str, Loss] = {}
    replayed_losses: dict[str, Loss | None] = {}
    for turn in turns(engine, arms):
        with own_random_numbers(turn):
            losses |= engine.forward_backward({arm.engine_name: batches[arm.engine_name] for arm in turn})
            for arm in turn:
                size, seed, step = arm.settings.batch_size, arm.settings.seed, arm.state.step + ahead
                replayed_losses[arm.engine_name] = replay(engine, arm.engine_name, arm.keep, step, size, seed)
    norms = engine.step({arm.engine_name: _settings(arm, rates[arm.engine_name]) for arm in arms})
    seconds = time.monotonic() - began - (engine.compile_seconds - compiling)
    return Taken(arms, batches, rates, losses, replayed_losses, norms, seconds)


def note(engine: Engine, taken: Taken) -> None:
    """Brings the arms' states and metrics up to a step that was taken; of one that has failed before, nothing."""
    began = time.monotonic()
    going = [arm for arm in taken.arms if not arm.failure]
    measured = {arm.engine_name: float(taken.norms[arm.engine_name]) for arm in going}
    seconds = (taken.seconds + time.monotonic() - began) / max(1, len(going))
    for arm in going:
        try:
            _note(engine, arm, taken, measured[arm.engine_name], seconds)
        except TrainingError as error:
            arm.failure = error.message


def turns(engine: Engine, arms: Sequence[Arm]) -> Sequence[Sequence[Arm]]:
    """Those that share passes, together; else one after another."""
    return [arms] if engine.shares_passes else [[arm] for arm in arms]


@contextmanager
def own_random_numbers(turn: Sequence[Arm]) -> Iterator[None]:
    """Dropout of an arm draws what it would draw alone; arms that share passes have none."""
    if len(turn) > 1:
        yield
        return
    [arm] = turn
    set_random_state(arm.state.rng)
    yield
    arm.state = arm.state.model_copy(update={"rng": random_state()})


def _settings(arm: Arm, rate: float) -> StepSettings:
    return StepSettings(rate, arm.settings.weight_decay, arm.settings.max_grad_norm)


def _note(engine: Engine, arm: Arm, taken: Taken, norm: float, seconds: float) -> None:
    name = arm.engine_name
    batch, loss, replay_loss = taken.batches[name], taken.losses[name], taken.replayed[name]
    tokens = sum(len(row) for row in batch)
    require_finite(loss.mean, arm.state, "loss")
    require_finite(norm, arm.state, "gradient")
    if replay_loss:
        note_replay(arm.record, arm.keep, arm.state, replay_loss, arm.settings.batch_size)
    note_losses(arm.record, arm.state.step, batch, loss.by_row)
    arm.state = state = advanced(arm.state, engine, loss, tokens, seconds)
    arm.record.append("metrics.jsonl", Metric(
        step=state.step, epoch=state.step * arm.settings.batch_size / len(arm.rows), split="train", loss=loss.mean,
        tokens=loss.tokens, token_accuracy=loss.correct / max(1, loss.tokens), learning_rate=taken.rates[name],
        grad_norm=norm, tokens_per_second=tokens / seconds, seconds=state.seconds))  # fmt: skip
    require_no_explosion(state)


def cool_down(engine: Engine, arms: Sequence[Arm]) -> int:
    """Lets each arm's rate fall to zero over further steps; the caller restores its weights afterwards.

    Returns the tokens that passed.
    """
    passed, before = 0, {arm.name: arm.state for arm in arms}
    for number in range(max(cool_down_steps(arm) for arm in arms)):
        here = [arm for arm in arms if number < cool_down_steps(arm)]
        batches = {arm.engine_name: arm.batch(arm.state.step + number) for arm in here}
        for turn in turns(engine, here):
            with own_random_numbers(turn):
                engine.forward_backward({arm.engine_name: batches[arm.engine_name] for arm in turn})
                for arm in turn:
                    size, seed = arm.settings.batch_size, arm.settings.seed
                    if rows := replayed(arm.keep, arm.state.step + number, size, seed):
                        engine.pull(arm.engine_name, rows, REPLAY_WEIGHT)
        engine.step({arm.engine_name: _settings(arm, _cooling_rate(arm, number)) for arm in here})
        passed += sum(len(row) for batch in batches.values() for row in batch)
    for arm in arms:
        arm.state = before[arm.name]
    return passed


def _cooling_rate(arm: Arm, number: int) -> float:
    return arm.rate_at(arm.state.step) * (1 - (number + 1) / (cool_down_steps(arm) + 1))


def cool_down_steps(arm: Arm) -> int:
    """0 where the schedule has ended: there the rate has fallen by itself."""
    if arm.state.step >= arm.total:
        return 0
    steps = round(min(COOL_DOWN_SHARE * arm.state.step, LONGEST_COOL_DOWN_SHARE * arm.total))
    return min(max(FEWEST_COOL_DOWN_STEPS, steps), arm.total - arm.state.step)


def score(engine: Engine, name: str, held_out: Sequence[Rendered]) -> Score:
    return score_each(engine, [name], held_out)[name]


def score_each(engine: Engine, names: Sequence[str], held_out: Sequence[Rendered]) -> dict[str, Score]:
    scores = {}
    for name, rows in zip(names, engine.logprobs_of_each(names, held_out), strict=True):
        losses = [-float(one.logprobs.sum(dtype=np.float64)) for one in rows]
        scores[name] = Score(np.array(losses), np.array([len(one.logprobs) for one in rows], np.float64))
    return scores


def steps_of_mean(step: int) -> int:
    """How many of the first `step` steps the mean at their end is of."""
    return max(1, round(MEAN_SHARE * step))


def add_to_sums(engine: Engine, arms: Sequence[Arm], *, anew: bool) -> None:
    for arm in arms:
        now = engine.weights(arm.engine_name)
        arm.sums = now.clone() if anew or arm.sums is None else arm.sums.add_(now)


def take_means(engine: Engine, arms: Sequence[Arm], count: int) -> None:
    """Gives each arm the mean of the `count` weights it has summed up; the caller restores what it had."""
    for arm in arms:
        assert arm.sums is not None
        engine.set_weights(arm.engine_name, arm.sums / count)
        arm.sums = None


def save_arms(engine: Engine, arms: Sequence[Arm], folder: Path) -> None:
    for arm in arms:
        (folder / arm.name).mkdir()
        engine.save(arm.name, folder / arm.name)
        if arm.sums is not None:
            save_file({"sums": arm.sums}, folder / arm.name / SUMS)


def restore_arms(engine: Engine, arms: Sequence[Arm], folder: Path) -> None:
    for arm in arms:
        engine.restore(arm.name, folder / arm.name)
        if (folder / arm.name / SUMS).exists():
            arm.sums = load_file(folder / arm.name / SUMS, device=str(engine.device))["sums"]
