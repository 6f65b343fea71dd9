"""Trials of one sweep that share a base, trained in the same passes; Optuna hears of each and may stop it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from residency.config.model import Full, RunConfig
from residency.engine.adapters import peft_config
from residency.engine.checkpoint import Progress, random_state
from residency.engine.engine import FULL, Engine
from residency.errors import Interrupted
from residency.methods.signals import stop_requests
from residency.progress import track
from residency.records import Metric, RunFolder
from residency.search.arms import Arm, score, train_step
from residency.stages.model import load_base, new_engine
from residency.stages.prepare import Prepared
from residency.wording import counted

LOOKS = 10
"""Times that a trial's held-out loss is measured: after each tenth of its steps, however many they are."""


@dataclass(slots=True, eq=False)
class Trial:
    number: int
    values: dict[str, Any]
    config: RunConfig
    record: RunFolder
    prepared: Prepared
    arm: Arm
    best: float | None = None
    """The lowest held-out loss so far: training keeps the checkpoint that has it."""
    stopped: str | None = None

    @property
    def tenth(self) -> int:
        return max(1, self.arm.total // LOOKS)

    @property
    def finished(self) -> bool:
        return self.stopped is not None or self.arm.state.step >= self.arm.total


def shares_passes(one: RunConfig, other: RunConfig) -> bool:
    """Whether two trials may train on one base: they differ in nothing but training settings and the adapter's size."""
    if one.adapter.kind != other.adapter.kind or one.adapter.kind not in ("lora", "qlora"):
        return False
    left, right = (run.model_dump(exclude={"train", "adapter", "name"}) for run in (one, other))
    return left == right


def new_trial(number: int, values: dict[str, Any], config: RunConfig, record: RunFolder, prepared: Prepared) -> Trial:
    name = FULL if isinstance(prepared.resolved.adapter, Full) else f"trial-{number}"
    progress = Progress(micro_batch_tokens=prepared.resolved.train.micro_batch_tokens)
    record.keep_metrics(-1)
    arm = Arm(f"trial-{number}", prepared.resolved.train, prepared.rows, record, progress, engine_name=name)
    return Trial(number, values, config, record, prepared, arm)


def engine_for(trials: Sequence[Trial]) -> Engine:
    first = trials[0].prepared
    model, autocast = load_base(first.resolved, len(first.renderer.tokenizer))
    engine = new_engine(model, first.resolved, autocast, trials[0].record)
    for trial in trials:
        adapter = trial.prepared.resolved.adapter
        if isinstance(adapter, Full):
            engine.train_all_weights()
            continue
        config = peft_config(adapter, model.name_or_path, trial.prepared.template_token_ids)
        engine.add_adapter(trial.arm.engine_name, config, seed=trial.prepared.resolved.train.seed)
        trial.arm.state = trial.arm.state.model_copy(update={"rng": random_state()})  # as the run alone begins
    return engine


def train_together(
    trials: Sequence[Trial],
    reported: Callable[[Trial, int, float], str | None],
    ended: Callable[[Trial], None],
) -> None:
    """Trains all to their ends. `reported(trial, percent of its steps, loss)` says why one is to stop, if it is;
    `ended` is told of each as it ends. Raises Interrupted between steps."""
    engine = engine_for(trials)
    going = list(trials)
    longest = max(trial.arm.total for trial in trials)
    with stop_requests() as stop_requested, track(f"{counted(len(trials), 'trial')} side by side", longest) as advance:
        while going:
            train_step(engine, [trial.arm for trial in going])
            for trial in going:
                look(engine, trial, reported)
            for trial in [trial for trial in going if trial.finished]:
                going.remove(trial)
                ended(trial)
                if going:
                    engine.drop_adapter(trial.arm.engine_name)
            advance(note=f"{len(going)} of {len(trials)} go on")
            if signal := stop_requested():
                raise Interrupted(f"{signal}; the trials before are kept",
                                  hint="go on with the same command")  # fmt: skip


def look(engine: Engine, trial: Trial, reported: Callable[[Trial, int, float], str | None]) -> None:
    """Measures a trial that has come to the next tenth of its steps."""
    arm, step = trial.arm, trial.arm.state.step
    if arm.failure:
        trial.stopped = arm.failure
        return
    if step % trial.tenth and step < arm.total:
        return
    began = time.monotonic()
    loss = score(engine, arm.engine_name, trial.prepared.held_out).mean
    arm.state = arm.state.model_copy(update={"seconds": arm.state.seconds + time.monotonic() - began})
    trial.record.append("metrics.jsonl", Metric(
        step=step, epoch=step * arm.settings.batch_size / len(arm.rows), split="eval", loss=loss,
        tokens=sum(int(row.trained.sum()) for row in trial.prepared.held_out), seconds=arm.state.seconds))  # fmt: skip
    if not math.isfinite(loss):
        trial.stopped = f"the held-out loss became {loss} after step {step}"
        return
    trial.best = loss if trial.best is None else min(trial.best, loss)
    if step < arm.total:
        trial.stopped = reported(trial, round(100 * step / arm.total), loss)
