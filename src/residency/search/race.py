"""The search one after another, for full fine-tuning: there is one set of weights, so candidates take turns.

They are given up as side by side. All are trained to the first mark and compared cooled down; the best few begin
again, the best first, because copies of their weights and optimizers would take several times the room, and this passes
a sixth of a run twice. From there on each stops at the mark where as many before it were better as are kept there.
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
from residency.search.halving import DIVERGED, Search, marks, new_arm, note_fate, probe_sentence, shown
from residency.search.ladder import bearable, probe
from residency.wording import counted

STATE = "race.json"
IN_TRAINING = "in training"
BYTES_PER_WEIGHT = 12
"""The weight and AdamW's two moments, in fp32."""
ROOM = 2
"""A copy is made in memory where there is room for so many."""


class RaceProgress(Record):
    """What stands after each candidate's turn; one that was interrupted is had again."""

    candidates: list[Candidate]
    best: str | None = None
    best_state: Progress | None = None
    best_losses: list[float] = Field(default_factory=list)
    """The best candidate's loss of each held-out row at the last mark."""
    best_keeps_budget: bool = True
    extra_tokens: int = 0
    seconds: float = 0.0


def search_one_by_one(search: Search, rates: Sequence[float]) -> Arm:
    """The winner as it was at its last mark, with its weights and optimizer in the engine."""
    state = resume(search) or begin(search, rates)
    (first, left), *later = marks(search.total)
    if later:
        for name in waiting(search, first):
            if first not in search.fates[name].scores:
                state = turn(search, name, [(first, len(rates))], state)
        halve(search, first, left)
    for name in waiting(search, first):
        state = turn(search, name, later or [(first, left)], state)
    if state.best is None or state.best_state is None:
        raise TrainingError("every learning rate of the search lost its loss", code="loss_exploded",
                            hint="look at the data, or set a lower train.learning_rate yourself")  # fmt: skip
    winner = new_arm(search, state.best, search.fates[state.best].learning_rate)
    winner.engine_name, winner.state = FULL, state.best_state
    search.engine.restore(FULL, search.record / "best")
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
        fate = IN_TRAINING if number <= usable else DIVERGED
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
    fates = {one.name: one.fate for one in state.candidates if one.fate != IN_TRAINING}
    rates = [one.learning_rate for one in state.candidates]
    search.run.say("search_resumed", f"the search goes on after {len(fates)} of {len(rates)} candidates", fates=fates,
                   rates=rates)  # fmt: skip
    return state


def waiting(search: Search, step: int) -> list[str]:
    """Those that are not given up, by their loss at `step`, and by rising rate where there is none."""
    there = [one for one in search.fates.values() if one.fate == IN_TRAINING]
    return [one.name for one in sorted(there, key=lambda one: (loss_at(one, step), one.learning_rate))]


def loss_at(candidate: Candidate, step: int) -> float:
    found = candidate.scores.get(step)
    return math.inf if found is None else found


def halve(search: Search, step: int, left: int) -> None:
    names = waiting(search, step)
    losses = {name: loss_at(search.fates[name], step) for name in names}
    if len(names) <= left:
        return
    said = ", ".join(f"{search.fates[name].learning_rate:.2g} {loss:.4f}" for name, loss in losses.items())
    when = f"after {step} of {counted(search.total, 'step')}"
    search.run.say("search_cut", f"{when} the best {left} of these begin again, held-out loss by learning rate: {said}",
                   step=step, kept=names[:left], losses=losses)  # fmt: skip
    for name in names[left:]:
        given_up = {"fate": f"held-out loss {losses[name]:.4f} after {counted(step, 'step')}"}
        search.fates[name] = search.fates[name].model_copy(update=given_up)


def turn(search: Search, name: str, until: Sequence[tuple[int, int]], state: RaceProgress) -> RaceProgress:
    """One candidate from the start to the last of these marks, or to where it is given up; what stands then."""
    began = time.monotonic()
    search.engine.restore(FULL, search.record / "start")
    search.extra_tokens += search.fates[name].tokens  # of its turn before
    arm = new_arm(search, name, search.fates[name].learning_rate)
    arm.engine_name = FULL
    arm.record.keep_metrics(-1)
    state = run_arm(search, arm, until, state)
    search.seconds += time.monotonic() - began
    state = state.model_copy(update={"candidates": list(search.fates.values()), "seconds": search.seconds,
                                     "extra_tokens": search.extra_tokens})  # fmt: skip
    search.record.write(STATE, state)
    return state


def run_arm(search: Search, arm: Arm, until: Sequence[tuple[int, int]], state: RaceProgress) -> RaceProgress:
    for step, left in until:
        train_until(search, arm, step)
        if arm.failure:
            search.run.say("candidate_lost", f"learning rate {arm.rate:.2g} is given up: {arm.failure}",
                           level="warning", learning_rate=arm.rate)  # fmt: skip
            note_fate(search, arm, arm.failure)
            return state
        last = step == marks(search.total)[-1][0]
        found, keeps = cooled_score(search, arm, last=last)
        scores = search.fates[arm.name].scores | {step: found.noted}
        search.fates[arm.name] = search.fates[arm.name].model_copy(update={"scores": scores})
        if not (wins(found, arm, state, search, keeps) if last else goes_on(search, arm, step, left)):
            note_fate(search, arm, f"held-out loss {found.mean:.4f} after {counted(step, 'step')}")
            said = f"learning rate {arm.rate:.2g} is stopped after {step} of {counted(search.total, 'step')}"
            search.run.say("search_cut", f"{said}: held-out loss {found.mean:.4f}", step=step,
                           learning_rate=arm.rate)  # fmt: skip
            return state
        if last:
            return best_so_far(search, arm, state, found, keeps)
    note_fate(search, arm, IN_TRAINING)
    return state


def goes_on(search: Search, arm: Arm, step: int, left: int) -> bool:
    """Whether fewer than `left` were better at this mark so far."""
    own, *others = (loss_at(one, step) for one in sorted(search.fates.values(), key=lambda one: one.name != arm.name))
    return math.isfinite(own) and sum(other < own for other in others) < left


def best_so_far(search: Search, arm: Arm, state: RaceProgress, found: Score, keeps: bool) -> RaceProgress:
    if state.best:
        search.fates[state.best] = search.fates[state.best].model_copy(update={"fate": f"{arm.rate:.2g} did better"})
    note_fate(search, arm, "the best so far")
    said = f"learning rate {arm.rate:.2g} is the best so far: held-out loss {found.mean:.4f}"
    search.run.say("search_best", f"{said} after {arm.state.step} of {counted(search.total, 'step')}",
                   step=arm.state.step, learning_rate=arm.rate)  # fmt: skip
    keep_best(search)
    return state.model_copy(update={"best": arm.name, "best_state": arm.state, "best_losses": found.losses.tolist(),
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


def cooled_score(search: Search, arm: Arm, *, last: bool) -> tuple[Score, bool]:
    """The held-out loss of a cooled-down copy, and at the last mark whether it keeps the budget; the arm stands where
    it was afterwards."""
    with put_back_afterwards(search):
        search.extra_tokens += cool_down(search.engine, [arm])
        found = score(search.engine, FULL, search.held_out)
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


def wins(found: Score, arm: Arm, state: RaceProgress, search: Search, keeps: bool) -> bool:
    """At the last mark: the one that keeps the budget, if only one does; of two that do not, the lower rate; else
    better by more than one standard error, or as good and lower."""
    if not math.isfinite(found.mean):
        return False
    if state.best is None:
        return True
    best = Score(np.array(state.best_losses), found.tokens)
    difference, error = found.mean - best.mean, standard_error(found, best)
    lower = arm.rate < search.fates[state.best].learning_rate
    if keeps != state.best_keeps_budget:
        return keeps
    if not keeps:
        return lower
    return difference < -error or (lower and difference <= error)
