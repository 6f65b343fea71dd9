"""The search one after another, for full fine-tuning: there is one set of weights, so candidates take turns.

The formula's rate runs first, then its neighbours. Each is held against the best so far at the same marks, cooled down,
and stopped as soon as it is worse by more than one standard error.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from pydantic import Field

from residency.engine.checkpoint import Progress
from residency.engine.engine import FULL
from residency.engine.memory import available_bytes
from residency.errors import Interrupted, TrainingError
from residency.methods.signals import stop_requests
from residency.progress import track
from residency.records import Candidate, Record
from residency.search.arms import Arm, Score, cool_down, score, standard_error, train_step
from residency.search.halving import Search, marks, new_arm, note_fate, probe_sentence, shown
from residency.search.ladder import bearable, probe

STATE = "race.json"
BYTES_PER_WEIGHT = 12
"""The weight and AdamW's two moments, in fp32."""
ROOM = 2
"""A copy is made in memory where there is room for so many."""


class RaceProgress(Record):
    """What stands after each candidate; one that was interrupted begins again."""

    candidates: list[Candidate]
    best: str | None = None
    best_state: Progress | None = None
    best_losses: dict[int, list[float]] = Field(default_factory=dict)
    """By step: the best candidate's loss of each held-out row."""
    best_keeps_budget: bool = True
    extra_tokens: int = 0
    seconds: float = 0.0


def search_one_by_one(search: Search, rates: Sequence[float], centre: float) -> Arm:
    """The winner as it was at its last mark, with its weights and optimizer in the engine."""
    start, best = search.record / "start", search.record / "best"
    state = resume(search) or begin(search, rates)
    for candidate in sorted(state.candidates, key=lambda one: (abs(math.log(one.learning_rate / centre)), one.name)):
        if candidate.fate != "in training":
            continue
        began = time.monotonic()
        search.engine.restore(FULL, start)
        arm = new_arm(search, candidate.name, candidate.learning_rate)
        arm.engine_name = FULL
        arm.record.keep_metrics(-1)
        state = run_arm(search, arm, state)
        search.seconds += time.monotonic() - began
        state = state.model_copy(update={"candidates": list(search.fates.values()), "seconds": search.seconds,
                                         "extra_tokens": search.extra_tokens})  # fmt: skip
        search.record.write(STATE, state)
    if state.best is None or state.best_state is None:
        raise TrainingError("every learning rate of the search lost its loss", code="loss_exploded",
                            hint="look at the data, or set a lower train.learning_rate yourself")  # fmt: skip
    winner = new_arm(search, state.best, search.fates[state.best].learning_rate)
    winner.engine_name, winner.state = FULL, state.best_state
    search.engine.restore(FULL, best)
    return winner


def begin(search: Search, rates: Sequence[float]) -> RaceProgress:
    search.engine.save(FULL, new_folder(search, "start"))
    arm = new_arm(search, "probe", rates[0])
    arm.engine_name = FULL
    losses = probe(search.engine, arm, rates)
    search.extra_tokens += len(losses) * sum(len(row) for row in arm.batch(0))
    usable = bearable(losses)
    search.run.say("range_probe", probe_sentence(losses, rates, usable), losses=[shown(loss) for loss in losses],
                   rates=list(rates))  # fmt: skip
    for number, rate in enumerate(rates, 1):
        fate = "in training" if number <= usable else "its loss rose in the range probe"
        name = f"candidate-{number}"
        search.fates[name] = Candidate(name=name, learning_rate=rate, fate=fate)
    state = RaceProgress(candidates=list(search.fates.values()), extra_tokens=search.extra_tokens)
    search.record.write(STATE, state)
    return state


def resume(search: Search) -> RaceProgress | None:
    """None where nothing usable was left."""
    if not (search.record / STATE).exists():
        return None
    state = search.record.read(STATE, RaceProgress)
    if state.best and not (search.record / "best").exists():  # the kill came while the best one was replaced
        return None
    search.fates = {one.name: one for one in state.candidates}
    search.extra_tokens, search.seconds = state.extra_tokens, state.seconds
    fates = {one.name: one.fate for one in state.candidates if one.fate != "in training"}
    rates = [one.learning_rate for one in state.candidates]
    search.run.say("search_resumed", f"the search goes on after {len(fates)} of {len(rates)} candidates", fates=fates,
                   rates=rates)  # fmt: skip
    return state


def run_arm(search: Search, arm: Arm, state: RaceProgress) -> RaceProgress:
    """Trains one candidate up to the last mark, or until it is worse than the best so far."""
    scores: dict[int, Score] = {}
    keeps = True
    for step, _ in marks(search.total):
        train_until(search, arm, step)
        if arm.failure:
            search.run.say("candidate_lost", f"learning rate {arm.rate:.2g} is given up: {arm.failure}",
                           level="warning", learning_rate=arm.rate)  # fmt: skip
            note_fate(search, arm, arm.failure)
            return state
        scores[step], keeps = cooled_score(search, arm)
        noted = {at: one.noted for at, one in scores.items()}
        search.fates[arm.name] = search.fates[arm.name].model_copy(update={"scores": noted})
        if not wins(scores[step], arm, state, step, search, keeps):
            note_fate(search, arm, f"held-out loss {scores[step].mean:.4f} after {step} steps")
            said = f"learning rate {arm.rate:.2g} is stopped after {step} of {search.total} steps"
            search.run.say("search_cut", f"{said}: held-out loss {scores[step].mean:.4f}", step=step,
                           learning_rate=arm.rate)  # fmt: skip
            return state
    if state.best:
        search.fates[state.best] = search.fates[state.best].model_copy(update={"fate": f"{arm.rate:.2g} did better"})
    note_fate(search, arm, "the best so far")
    said = f"learning rate {arm.rate:.2g} is the best so far: held-out loss {scores[arm.state.step].mean:.4f}"
    search.run.say("search_best", f"{said} after {arm.state.step} of {search.total} steps", step=arm.state.step,
                   learning_rate=arm.rate)  # fmt: skip
    keep_best(search)
    losses = {step: one.losses.tolist() for step, one in scores.items()}
    return state.model_copy(update={"best": arm.name, "best_state": arm.state, "best_losses": losses,
                                    "best_keeps_budget": keeps})  # fmt: skip


def train_until(search: Search, arm: Arm, step: int) -> None:
    with stop_requests() as stop_requested, track(f"learning rate {arm.rate:.2g}", step) as advance:
        advance(arm.state.step)
        while arm.state.step < step and not arm.failure:
            train_step(search.engine, [arm])
            advance(note=f"loss {arm.state.recent_losses[-1]:.3f}" if arm.state.recent_losses else "")
            if signal := stop_requested():
                raise Interrupted(f"{signal} in the search; the candidates before {arm.rate:.2g} are saved",
                                  hint="go on with the same command and --resume")  # fmt: skip


def cooled_score(search: Search, arm: Arm) -> tuple[Score, bool]:
    """The held-out loss of a cooled-down copy, and at the last mark whether it keeps the budget; the arm stands where
    it was afterwards."""
    with put_back_afterwards(search):
        search.extra_tokens += cool_down(search.engine, [arm])
        found = score(search.engine, FULL, search.held_out)
        last = arm.state.step == marks(search.total)[-1][0]
        keeps = not last or search.keeps_budget is None or search.keeps_budget(FULL)
    return found, keeps


@contextmanager
def put_back_afterwards(search: Search) -> Iterator[None]:
    """Weights and optimizer, from a copy in memory where there is room for one: it is made for every mark of every
    candidate, and on a disk takes longer than the steps between."""
    engine = search.engine
    if available_bytes(engine.device) > ROOM * BYTES_PER_WEIGHT * engine.trainable_parameters(FULL):
        copy = engine.snapshot(FULL)
        yield
        engine.put_back({FULL: copy})
        return
    now = new_folder(search, "now")
    engine.save(FULL, now)
    yield
    engine.restore(FULL, now)


def keep_best(search: Search) -> None:
    """What is trained now, into the folder `best`, which a kill leaves whole or away."""
    now, best = new_folder(search, "now"), search.record / "best"
    search.engine.save(FULL, now)
    shutil.rmtree(best, ignore_errors=True)
    now.rename(best)


def new_folder(search: Search, name: str) -> Path:
    folder = search.record / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def wins(found: Score, arm: Arm, state: RaceProgress, step: int, search: Search, keeps: bool) -> bool:
    """Before the last mark: not worse by more than one standard error. There: the one that keeps the budget, if only
    one does; of two that do not, the lower rate; else better by more, or as good and lower."""
    if not math.isfinite(found.mean):
        return False
    if state.best is None:
        return True
    best = Score(np.array(state.best_losses[step]), found.tokens)
    difference, error = found.mean - best.mean, standard_error(found, best)
    if step < marks(search.total)[-1][0]:
        return difference <= error
    lower = arm.rate < search.fates[state.best].learning_rate
    if keeps != state.best_keeps_budget:
        return keeps
    if not keeps:
        return lower
    return difference < -error or (lower and difference <= error)
