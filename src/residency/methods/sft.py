"""Supervised fine-tuning: next-token loss on the chosen tokens of each row, as one plain loop over the engine.

Continued pre-training is the same loop over windows of plain text, in which every token is chosen (`pretrain.py`).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from residency.config.model import Train
from residency.config.section import Final
from residency.data.messages import Rendered
from residency.engine.checkpoint import Checkpoints, Progress, random_state, set_random_state
from residency.engine.engine import Engine
from residency.engine.optim import StepSettings, learning_rate_at
from residency.errors import Interrupted, TrainingError
from residency.methods.signals import stop_requests
from residency.progress import track
from residency.records import Metric, RunFolder

RECENT = 5
EXPLODED = 1.5
"""Training stops when the mean of the RECENT losses passes this multiple of the first one."""


@dataclass(frozen=True, slots=True)
class Outcome:
    progress: Progress
    stopped_early: bool
    total_steps: int


def total_steps(settings: Train[Final], rows: int) -> int:
    steps = math.ceil(settings.epochs * rows / settings.batch_size)
    return min(steps, settings.max_steps) if settings.max_steps else steps


def rows_of_step(step: int, batch_size: int, count: int, seed: int) -> list[int]:
    """The rows of a step, a function of nothing but its arguments: each epoch is one shuffled pass."""
    positions = range(step * batch_size, (step + 1) * batch_size)
    epochs = {position // count for position in positions}
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(count) for epoch in epochs}
    return [int(orders[p // count][p % count]) for p in positions]


def train(
    engine: Engine,
    name: str,
    rows: Sequence[Rendered],
    held_out: Sequence[Rendered],
    settings: Train[Final],
    run: RunFolder,
) -> Outcome:
    """Trains `name` from its newest checkpoint, or from the start, and leaves the best weights in the engine.

    Raises Interrupted after a signal (a checkpoint is left), TrainingError where the loss is lost (the last good
    checkpoint is kept), ResourceError where memory or disk run out.
    """
    assert not isinstance(settings.learning_rate, str), "a search has found a rate before"
    total = total_steps(settings, len(rows))
    checkpoints = Checkpoints(run, settings.keep_checkpoints)
    state = resume(engine, name, checkpoints)
    if state.step == 0 and held_out:
        state = measure(engine, name, held_out, state, settings, run, checkpoints, len(rows))
    saved_at, stopped_early = time.monotonic(), state.step < total and out_of_patience(state, settings)
    with stop_requests() as stop_requested, track("training", total) as advance:
        advance(state.step)
        while state.step < total and not stopped_early:
            began = time.monotonic()
            batch = [rows[i] for i in rows_of_step(state.step, settings.batch_size, len(rows), settings.seed)]
            rate = learning_rate_at(state.step, total, settings.learning_rate, settings.schedule, settings.warmup_share)
            loss = engine.forward_backward({name: batch})[name]
            require_finite(loss.mean, state, "loss")
            norm = engine.step({name: StepSettings(rate, settings.weight_decay, settings.max_grad_norm)})[name]
            require_finite(norm, state, "gradient")
            tokens, seconds = sum(len(row) for row in batch), time.monotonic() - began
            state = advanced(state, engine, loss.mean, loss.tokens, tokens, seconds)
            require_no_explosion(state)
            run.append("metrics.jsonl", Metric(
                step=state.step, epoch=state.step * settings.batch_size / len(rows), split="train", loss=loss.mean,
                tokens=loss.tokens, token_accuracy=loss.correct / max(1, loss.tokens), learning_rate=rate,
                grad_norm=norm, tokens_per_second=tokens / seconds, seconds=state.seconds))  # fmt: skip
            advance(note=f"loss {loss.mean:.3f}")

            last = state.step == total
            if held_out and (state.step % settings.eval_every_steps == 0 or last):
                state = measure(engine, name, held_out, state, settings, run, checkpoints, len(rows))
                stopped_early = out_of_patience(state, settings) and not last
            overdue = time.monotonic() - saved_at > settings.save_every_minutes * 60
            signal = stop_requested()
            if state.step % settings.save_every_steps == 0 or last or overdue or signal or stopped_early:
                path = checkpoints.save(state, lambda folder: engine.save(name, folder))
                saved_at = time.monotonic()
            if signal:
                raise Interrupted(
                    f"{signal} after step {state.step} of {total}; everything is saved in {path}",
                    hint="go on with the same command and --resume",
                )
    if state.best_step not in (None, state.step) and (best := checkpoints.best(state.best_step)):
        engine.restore(name, best, optimizer=False)
        run.say("best_restored", f"the weights of step {state.best_step} had the lowest held-out loss and are the "
                f"result", step=state.best_step, loss=state.best_loss)  # fmt: skip
    return Outcome(state, stopped_early, total)


def resume(engine: Engine, name: str, checkpoints: Checkpoints) -> Progress:
    """Puts the newest whole checkpoint into the engine and cuts the metrics back to it; without one, all of them."""
    run, found = checkpoints.run, checkpoints.newest()
    if found is None:
        if run.metrics():
            run.keep_metrics(-1)
            run.say("restarted", "no checkpoint is left; training begins again", level="warning")
        return Progress(micro_batch_tokens=engine.micro_batch_tokens)
    state, path = found
    engine.restore(name, path)
    engine.micro_batch_tokens = state.micro_batch_tokens
    set_random_state(state.rng)
    run.keep_metrics(state.step)
    run.say("resumed", f"resumed from {path.name}", step=state.step)
    return state


def measure(
    engine: Engine,
    name: str,
    held_out: Sequence[Rendered],
    state: Progress,
    settings: Train[Final],
    run: RunFolder,
    checkpoints: Checkpoints,
    rows: int,
) -> Progress:
    """The held-out loss, and its weights kept if it is the lowest so far; before the first step it is only noted."""
    began = time.monotonic()
    scores = engine.logprobs(name, held_out)
    tokens = sum(len(score.logprobs) for score in scores)
    loss = -sum(float(score.logprobs.sum(dtype=np.float64)) for score in scores) / max(1, tokens)
    correct = sum(int(score.correct.sum()) for score in scores)
    run.append("metrics.jsonl", Metric(
        step=state.step, epoch=state.step * settings.batch_size / rows, split="eval", loss=loss, tokens=tokens,
        token_accuracy=correct / max(1, tokens), seconds=state.seconds))  # fmt: skip
    better = state.step > 0 and math.isfinite(loss) and (state.best_loss is None or loss < state.best_loss)
    state = state.model_copy(update={
        "seconds": state.seconds + time.monotonic() - began,
        "measurements_since_best": 0 if better or state.step == 0 else state.measurements_since_best + 1,
    } | ({"best_step": state.step, "best_loss": loss} if better else {}))  # fmt: skip
    if better:
        checkpoints.save_best(state, lambda folder: engine.save(name, folder, optimizer=False))
    return state


def advanced(
    state: Progress, engine: Engine, loss: float, trained_tokens: int, tokens: int, seconds: float
) -> Progress:
    return state.model_copy(update={
        "step": state.step + 1,
        "tokens": state.tokens + tokens,
        "trained_tokens": state.trained_tokens + trained_tokens,
        "seconds": state.seconds + seconds,
        "micro_batch_tokens": engine.micro_batch_tokens,
        "first_loss": loss if state.first_loss is None else state.first_loss,
        "recent_losses": (*state.recent_losses, loss)[-RECENT:],
        "rng": random_state(),
    })  # fmt: skip


def out_of_patience(state: Progress, settings: Train[Final]) -> bool:
    return settings.patience is not None and state.measurements_since_best >= settings.patience


def require_finite(value: float, state: Progress, what: str) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"the {what} became {value} at step {state.step + 1}; the weights were not changed by it",
            code="not_finite",
            hint="lower train.learning_rate (a third is a good next try); the checkpoints before are kept",
        )


def require_no_explosion(state: Progress) -> None:
    first = max(state.first_loss or 0.0, 1.0)
    recent = statistics.fmean(state.recent_losses)
    if len(state.recent_losses) == RECENT and recent > EXPLODED * first:
        raise TrainingError(
            f"the loss exploded: {recent:.2f} over the last {RECENT} steps, {first:.2f} at the start "
            f"(step {state.step})",
            code="loss_exploded",
            hint="lower train.learning_rate (a third is a good next try); the checkpoints before are kept",
        )
