"""Supervised fine-tuning: next-token loss on the chosen tokens of each row, as one plain loop over the engine.

Continued pre-training is the same loop over windows of plain text, in which every token is chosen (`pretrain.py`).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from residency.config.model import Train
from residency.config.section import Final
from residency.config.steps import is_due, total_steps
from residency.data.messages import Rendered
from residency.engine.checkpoint import Checkpoints, Progress, random_state, set_random_state
from residency.engine.engine import Engine
from residency.engine.late import Loss
from residency.engine.optim import StepSettings, learning_rate_at
from residency.errors import Interrupted, TrainingError
from residency.evals.fit import badge
from residency.methods.keep import NOTHING, Keep, note_replay, replay, watch
from residency.methods.order import rows_of_step
from residency.methods.passes import Gradients, Run, Update, alone
from residency.methods.row_losses import note_losses
from residency.methods.signals import stop_requests
from residency.progress import track
from residency.records import Metric, RunFolder

RECENT = 5
OVERFIT_PATIENCE = 2
"""Measurements in a row with the badge OVERFIT after which training stops, unless `train.patience` is null."""
EXPLODED = 1.5
"""Training stops when the mean of the RECENT losses passes this multiple of the first one."""


@dataclass(frozen=True, slots=True)
class Outcome:
    progress: Progress
    stopped_early: bool
    total_steps: int


@dataclass(frozen=True, slots=True)
class Taken:
    """A step whose numbers have not been read: a device may still be working on it, and reading them waits for it."""

    step: int
    """Steps before it."""
    batch: Sequence[Rendered]
    learning_rate: float
    loss: Loss
    replayed: Loss | None
    norms: Mapping[str, float]
    seconds: float
    """That handing it to the device took; on a CPU, all of it. Compiling is not counted."""


def train(
    engine: Engine,
    name: str,
    rows: Sequence[Rendered],
    held_out: Sequence[Rendered],
    settings: Train[Final],
    run: RunFolder,
    keep: Keep = NOTHING,
) -> Outcome:
    """`training`, carried to its end."""
    return alone(training(engine, name, rows, held_out, settings, run, keep))


def training(
    engine: Engine,
    name: str,
    rows: Sequence[Rendered],
    held_out: Sequence[Rendered],
    settings: Train[Final],
    run: RunFolder,
    keep: Keep = NOTHING,
    asked_to_stop: Callable[[], str | None] = lambda: None,
) -> Run[Outcome]:
    """Trains `name` from its newest checkpoint, or from the start, and leaves the best weights in the engine; `keep` is
    what is done against forgetting meanwhile, and `asked_to_stop` says why this run is to stop at its next step, as a
    signal asks all of a process.

    Raises Interrupted where it is asked to stop (a checkpoint is left), TrainingError where the loss is lost (the last
    good checkpoint is kept), ResourceError where memory or disk run out.
    """
    total, said = total_steps(settings, len(rows)), f"training at {settings.learning_rate:.2g}"
    checkpoints = Checkpoints(run, settings.keep_checkpoints)
    state = resume(engine, name, checkpoints)
    if state.step == 0:
        state = measure(engine, name, held_out, state, settings, checkpoints, len(rows), keep)
    saved_at, stopped_early = time.monotonic(), state.step < total and out_of_patience(state, settings, keep)
    step = state.step
    taken: Taken | None = None
    with stop_requests() as stop_requested, track(said, total) as advance:
        advance(state.step)
        while step < total and not stopped_early:
            before, taken = taken, (yield from take_step(engine, name, rows, step, total, settings, keep))
            step += 1
            if before:  # read while the device works on the step after it
                state = noted(before, state, engine, name, len(rows), settings, keep, run)
                advance(note=f"loss {state.recent_losses[-1]:.3f}")

            last = step == total
            measuring = is_due(settings.eval_every_steps, step, settings.batch_size, len(rows)) or last
            overdue = time.monotonic() - saved_at > settings.save_every_minutes * 60
            signal = stop_requested() or asked_to_stop()
            save = is_due(settings.save_every_steps, step, settings.batch_size, len(rows)) or last or overdue or signal
            if not (measuring or save):
                continue
            state = noted(taken, state, engine, name, len(rows), settings, keep, run)
            state, taken = state.model_copy(update={"rng": random_state()}), None
            advance(note=f"loss {state.recent_losses[-1]:.3f}")
            if measuring:
                state = measure(engine, name, held_out, state, settings, checkpoints, len(rows), keep)
                stopped_early = out_of_patience(state, settings, keep) and not last
            if save or stopped_early:
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


def take_step(
    engine: Engine,
    name: str,
    rows: Sequence[Rendered],
    step: int,
    total: int,
    settings: Train[Final],
    keep: Keep,
) -> Run[Taken]:
    """One optimizer step, handed to the device; nothing waits for it."""
    assert not isinstance(settings.learning_rate, str), "a search has found a rate before"
    began, compiling = time.monotonic(), engine.compile_seconds
    batch = [rows[i] for i in rows_of_step(step, settings.batch_size, len(rows), settings.seed)]
    rate = learning_rate_at(step, total, settings.learning_rate, settings.schedule, settings.warmup_share)
    loss: Loss = yield Gradients(engine, name, batch)
    replayed = replay(engine, name, keep, step, settings.batch_size, settings.seed)
    update = StepSettings(rate, settings.weight_decay, settings.max_grad_norm)
    norms: Mapping[str, float] = yield Update(engine, name, update)
    seconds = time.monotonic() - began - (engine.compile_seconds - compiling)
    return Taken(step, batch, rate, loss, replayed, norms, seconds)


def noted(
    taken: Taken,
    state: Progress,
    engine: Engine,
    name: str,
    rows: int,
    settings: Train[Final],
    keep: Keep,
    run: RunFolder,
) -> Progress:
    """The state after this step, once its numbers are there, and its lines in the metrics."""
    began, loss, norm = time.monotonic(), taken.loss, taken.norms[name]
    require_finite(loss.mean, state, "loss")
    require_finite(norm, state, "gradient")
    if taken.replayed:
        note_replay(run, keep, state, taken.replayed, settings.batch_size)
    note_losses(run, taken.step, taken.batch, loss.by_row)
    tokens, seconds = sum(len(row) for row in taken.batch), taken.seconds + time.monotonic() - began
    state = advanced(state, engine, loss, tokens, seconds)
    require_no_explosion(state)
    run.append("metrics.jsonl", Metric(
        step=state.step, epoch=state.step * settings.batch_size / rows, split="train", loss=loss.mean,
        tokens=loss.tokens, token_accuracy=loss.correct / max(1, loss.tokens), learning_rate=taken.learning_rate,
        grad_norm=norm, tokens_per_second=tokens / seconds, seconds=state.seconds))  # fmt: skip
    return state


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
    run.say("resumed", f"training goes on from {path.name}", step=state.step)
    return state


def measure(
    engine: Engine,
    name: str,
    held_out: Sequence[Rendered],
    state: Progress,
    settings: Train[Final],
    checkpoints: Checkpoints,
    rows: int,
    keep: Keep,
) -> Progress:
    """Forgetting and the held-out loss, and its weights kept if it is the lowest so far inside the budget; before the
    first step both are only noted."""
    state = watch(engine, name, keep, state, state.step * settings.batch_size / rows, checkpoints.run)
    if not held_out:
        return state
    began = time.monotonic()
    scores = engine.logprobs(name, held_out)
    tokens = sum(len(score.logprobs) for score in scores)
    loss = -sum(float(score.logprobs.sum(dtype=np.float64)) for score in scores) / max(1, tokens)
    correct = sum(int(score.correct.sum()) for score in scores)
    metric = Metric(step=state.step, epoch=state.step * settings.batch_size / rows, split="eval", loss=loss,
                    tokens=tokens, token_accuracy=correct / max(1, tokens), seconds=state.seconds)  # fmt: skip
    state = judged(state, metric, checkpoints.run)
    allowed = state.step > 0 and not (keep.stop and state.measurements_over_budget)
    better = allowed and math.isfinite(loss) and (state.best_loss is None or loss < state.best_loss)
    state = state.model_copy(update={
        "seconds": state.seconds + time.monotonic() - began,
        "measurements_since_best": 0 if better or state.step == 0 else state.measurements_since_best + 1,
    } | ({"best_step": state.step, "best_loss": loss} if better else {}))  # fmt: skip
    if better:
        checkpoints.save_best(state, lambda folder: engine.save(name, folder, optimizer=False))
    return state


def judged(state: Progress, metric: Metric, run: RunFolder) -> Progress:
    """Writes the measurement down with its badge, and says when it becomes OVERFIT."""
    tokens = state.tokens_since_measured
    if not tokens or not math.isfinite(metric.loss):
        run.append("metrics.jsonl", metric)
        return state
    losses, train_loss = (*state.held_out_losses, metric.loss), state.loss_since_measured / tokens
    found = badge(losses, train_loss, state.correct_since_measured / tokens)
    run.append("metrics.jsonl", metric.model_copy(update={"train_loss": train_loss, "badge": found}))
    overfit = state.overfit_measurements + 1 if found == "OVERFIT" else 0
    if overfit == 1:
        run.say("overfit", f"overfitting at step {state.step}: training loss {train_loss:.3g}, held-out loss "
                f"{metric.loss:.3g}, {min(losses):.3g} at its best; fewer train.epochs or more rows would help",
                level="warning", step=state.step)  # fmt: skip
    return state.model_copy(update={
        "loss_since_measured": 0.0, "tokens_since_measured": 0, "correct_since_measured": 0,
        "held_out_losses": losses, "overfit_measurements": overfit,
    })  # fmt: skip


def advanced(state: Progress, engine: Engine, loss: Loss, tokens: int, seconds: float) -> Progress:
    return state.model_copy(update={
        "step": state.step + 1,
        "tokens": state.tokens + tokens,
        "trained_tokens": state.trained_tokens + loss.tokens,
        "loss_since_measured": state.loss_since_measured + loss.total,
        "tokens_since_measured": state.tokens_since_measured + loss.tokens,
        "correct_since_measured": state.correct_since_measured + loss.correct,
        "seconds": state.seconds + seconds,
        "micro_batch_tokens": engine.micro_batch_tokens,
        "first_loss": loss.mean if state.first_loss is None else state.first_loss,
        "recent_losses": (*state.recent_losses, loss.mean)[-RECENT:],
    })  # fmt: skip


def out_of_patience(state: Progress, settings: Train[Final], keep: Keep) -> bool:
    if keep.over_budget(state):
        return True
    if settings.patience is None:
        return False
    return state.measurements_since_best >= settings.patience or state.overfit_measurements >= OVERFIT_PATIENCE


def require_finite(value: float, state: Progress, what: str) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"the {what} became {value} at step {state.step + 1}; the weights were not changed by it",
            code="not_finite",
            hint="lower train.learning_rate (a third is a good next try); the checkpoints before are kept",
        )


def exploded(first: float, recent: float) -> bool:
    """Losses in nats; below one nat a rise is measured by that."""
    return recent > EXPLODED * max(first, 1.0)


def require_no_explosion(state: Progress) -> None:
    first = state.first_loss or 0.0
    recent = statistics.fmean(state.recent_losses)
    if len(state.recent_losses) == RECENT and exploded(first, recent):
        raise TrainingError(
            f"the loss exploded: {recent:.2f} over the last {RECENT} steps, {first:.2f} at the start "
            f"(step {state.step})",
            code="loss_exploded",
            hint="lower train.learning_rate (a third is a good next try); the checkpoints before are kept",
        )
