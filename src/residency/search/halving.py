"""The search side by side: all candidates in the same passes, and the worse ones given up at each mark.

On a CPU the last one is chosen at half of the run. Where candidates share passes a second one costs a fraction of a
run, and what a comparison at half cannot know is what the steps to come still change: there the last two go on until
they are plainly apart, to their ends where it may matter (`ends`).
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import Field

from residency.config.model import Train
from residency.config.section import Final
from residency.config.steps import total_steps
from residency.data.messages import Rendered
from residency.engine.checkpoint import Checkpoints, Progress, random_state, set_random_state
from residency.engine.engine import Engine
from residency.errors import Interrupted, TrainingError
from residency.evals.retention import spread
from residency.methods.keep import NOTHING, Keep, forgotten
from residency.methods.signals import stop_requests
from residency.progress import track
from residency.records import Candidate, Event, RunFolder
from residency.search.arms import (
    Arm,
    Score,
    Taken,
    add_to_sums,
    cool_down,
    note,
    restore_arms,
    save_arms,
    score_each,
    steps_of_mean,
    take_means,
    take_step,
)
from residency.search.choice import as_good, near_best, survivors
from residency.search.ends import by_result, carry_to_ends, is_begun, result_of
from residency.search.ladder import bearable, probe
from residency.wording import counted

MARKS = ((0.05, 3), (0.2, 2), (0.5, 1))
"""At this share of the steps so many candidates are left. Of eight, 1.95 runs' worth of steps are trained in all."""
FEWEST_STEPS = 8
"""No mark comes before."""
AGAIN, APART = 0.75, 3.0
"""Where candidates share passes, the last two are compared again at this share of the steps; they are plainly apart
where it is by so many standard errors."""
MATTERS = 0.01
"""There they go on only where the one behind could, within as many errors, be better by more than this share of the
loss."""
ENOUGH_HELD_OUT = 64
"""Rows that the worse ones are given up by; the last one is chosen by all. Fewer rank them by chance."""
SAVE_EVERY_SECONDS = 60.0
"""Most that a kill can cost."""
KEEP = 2
DIVERGED = "its loss diverged in the range probe"


class SearchProgress(Progress):
    """`step`, `seconds` and `rng` are the search's own."""

    arms: dict[str, Progress] = Field(default_factory=dict)
    compared: int = 0
    """The step of the last comparison."""
    candidates: list[Candidate] = Field(default_factory=list)
    extra_tokens: int = 0
    """Of the probe and the cool-downs."""


@dataclass(slots=True, eq=False)
class Search:
    """One search and where it stands."""

    engine: Engine
    rows: Sequence[Rendered]
    held_out: Sequence[Rendered]
    settings: Train[Final]
    run: RunFolder
    add_adapters: Callable[[Sequence[str]], None]
    """Adds adapters of these names, each as the run's own begins."""
    keep: Keep = NOTHING
    """What the run does against forgetting; the candidates do it too."""
    arms: list[Arm] = field(default_factory=list)
    fates: dict[str, Candidate] = field(default_factory=dict)
    extra_tokens: int = 0
    seconds: float = 0.0
    step: int = 0
    compared: int = 0
    """The step of the last comparison."""
    saved_at: float = field(default_factory=time.monotonic)
    rng: dict[str, str] = field(default_factory=random_state)
    """What the run's own training would begin with: adapters that are added draw too."""

    @property
    def total(self) -> int:
        return total_steps(self.settings, len(self.rows))

    @property
    def keeps_budget(self) -> Callable[[str], bool] | None:
        """Whether what the engine trains under a name forgets no more than it may, as it is then. None where the run
        has no budget that it stops at."""
        if not (self.keep.stop and self.keep.watched):
            return None
        return lambda name: forgotten(self.engine, name, self.keep).value <= self.keep.budget

    @property
    def record(self) -> RunFolder:
        """Where the search keeps its files."""
        return RunFolder(self.run / "search", self.run.listener)


def marks(total: int) -> list[tuple[int, int]]:
    """(step, candidates left), by rising step; of two at one step the stricter."""
    found: dict[int, int] = {}
    for share, left in MARKS:
        found[min(total, max(FEWEST_STEPS, math.ceil(share * total)))] = left
    return sorted(found.items())


def comparisons(search: Search) -> list[tuple[int, int]]:
    """The marks, and where candidates share passes one after them."""
    found = marks(search.total)
    return [*found, (again, 1)] if search.engine.shares_passes and (again := compared_again(search.total)) else found


def compared_again(total: int) -> int | None:
    """The step after the last mark; None in a run too short for one."""
    again = math.ceil(AGAIN * total)
    return again if again > marks(total)[-1][0] else None


def search_side_by_side(search: Search, rates: Sequence[float]) -> Arm:
    """The winner, trained up to where the search ended; its adapter is the only one of the search left.

    Raises Interrupted after a signal (a checkpoint is left), TrainingError where no candidate keeps its loss.
    """
    checkpoints = Checkpoints(search.record, KEEP, SearchProgress)
    if not resume(search, checkpoints):
        begin(search, rates)
    for step, left in comparisons(search):
        if step <= search.compared or len(search.arms) == 1:
            continue
        train_until(search, step, checkpoints)
        if len(search.arms) > left:
            cut(search, step, left)
    if len(search.arms) > 1:
        save(search, checkpoints)
        choose_at_the_end(search)
    return search.arms[0]


def choose_at_the_end(search: Search) -> None:
    """Carries those that are left to their ends, and keeps the better one."""
    began = time.monotonic()
    carry_to_ends(search.engine, search.arms, search.held_out)
    for arm in [arm for arm in search.arms if arm.failure]:
        give_up(search, arm, arm.failure or "")
    require_some_left(search)
    first, *others = by_result(search.arms)
    for arm in search.arms:
        noted = search.fates[arm.name].scores | {arm.state.step: arm.state.best_loss}
        search.fates[arm.name] = search.fates[arm.name].model_copy(update={"scores": noted})
    losses = {arm.name: arm.state.best_loss for arm in search.arms}
    said = ", ".join(f"{arm.rate:.2g} {result_of(arm)}{'' if arm is first else ' (given up)'}" for arm in search.arms)
    search.run.say("search_cut", f"lowest held-out loss by learning rate, both carried to their ends: {said}",
                   step=search.total, kept=[first.name], losses=losses)  # fmt: skip
    for arm in others:
        give_up(search, arm, f"held-out loss {result_of(arm)} in the end")
    search.seconds += time.monotonic() - began


def begin(search: Search, rates: Sequence[float]) -> None:
    for number, rate in enumerate(rates, 1):
        search.fates[f"candidate-{number}"] = Candidate(name=f"candidate-{number}", learning_rate=rate)
    add_arms(search, list(search.fates))
    lowest = search.arms[0]
    start = search.engine.snapshot(lowest.name)
    losses = probe(search.engine, lowest, rates)
    search.engine.put_back({lowest.name: start})
    search.extra_tokens += len(losses) * sum(len(row) for row in lowest.batch(0))
    usable = bearable(losses)
    said = probe_sentence(losses, rates, usable)
    search.run.say("range_probe", said, losses=[shown(loss) for loss in losses], rates=list(rates))
    for arm in search.arms[usable:]:
        give_up(search, arm, DIVERGED)


def add_arms(search: Search, names: Sequence[str]) -> None:
    search.add_adapters(names)
    search.arms += [new_arm(search, name, search.fates[name].learning_rate) for name in names]


def shown(loss: float) -> float | None:
    return round(loss, 4) if math.isfinite(loss) else None


def probe_sentence(losses: Sequence[float], rates: Sequence[float], usable: int) -> str:
    said = f"range probe: one step each with {len(rates)} rates from {rates[0]:.2g} to {rates[-1]:.2g}"
    if usable == len(rates):
        return f"{said}; none diverged"
    return f"{said}; the loss diverged from {rates[usable]:.2g} on, which leaves {usable}"


def new_arm(search: Search, name: str, rate: float) -> Arm:
    record = RunFolder(search.record / name, told_of(search.run, rate))
    record.path.mkdir(parents=True, exist_ok=True)
    settings = search.settings.model_copy(update={"learning_rate": rate})
    state = Progress(micro_batch_tokens=search.engine.micro_batch_tokens, rng=search.rng)
    return Arm(name, settings, search.rows, record, state, keep=search.keep)


def told_of(run: RunFolder, rate: float) -> Callable[[Event], None] | None:
    """Passes on what is said of one candidate, with its rate in front."""
    listener = run.listener
    if listener is None:
        return None
    return lambda event: listener(event.model_copy(update={"message": f"learning rate {rate:.2g}: {event.message}"}))


def resume(search: Search, checkpoints: Checkpoints) -> bool:
    """Goes on from the newest whole checkpoint, with the candidates that were left there."""
    found = checkpoints.newest()
    if found is None:
        for file in search.record.path.glob("*/metrics.jsonl"):
            file.unlink()
        for folder in search.record.path.glob("*/checkpoints"):
            shutil.rmtree(folder)
        return False
    state, folder = found
    assert isinstance(state, SearchProgress)
    search.fates = {one.name: one for one in state.candidates}
    search.step, search.seconds, search.extra_tokens = state.step, state.seconds, state.extra_tokens
    search.compared = state.compared
    add_arms(search, list(state.arms))
    on_their_ways = search.compared == comparisons(search)[-1][0]
    for arm, progress in zip(search.arms, state.arms.values(), strict=True):
        arm.state = progress
        if not on_their_ways:
            shutil.rmtree(arm.record / "checkpoints", ignore_errors=True)
        if not is_begun(arm):
            arm.record.keep_metrics(progress.step)
    restore_arms(search.engine, search.arms, folder)
    search.engine.micro_batch_tokens = state.micro_batch_tokens
    set_random_state(state.rng)
    said = f"the search goes on after step {state.step} with {len(search.arms)} of {len(search.fates)} candidates"
    rates = [one.learning_rate for one in state.candidates]
    search.run.say("search_resumed", said, step=state.step, kept=list(state.arms), rates=rates)
    return True


def save(search: Search, checkpoints: Checkpoints) -> None:
    state = SearchProgress(
        step=search.step, seconds=search.seconds, micro_batch_tokens=search.engine.micro_batch_tokens,
        rng=random_state(), arms={arm.name: arm.state for arm in search.arms}, candidates=list(search.fates.values()),
        extra_tokens=search.extra_tokens, compared=search.compared,
    )  # fmt: skip
    checkpoints.save(state, lambda folder: save_arms(search.engine, search.arms, folder))
    search.saved_at = time.monotonic()


def train_until(search: Search, step: int, checkpoints: Checkpoints) -> None:
    said = f"{counted(len(search.arms), 'rate')} to step {step} of {search.total}"
    averaged_from = step - steps_of_mean(step) + 1
    with stop_requests() as stop_requested, track(said, step) as advance:
        advance(search.step)
        taken: Taken | None = None
        while search.step < step:
            began = time.monotonic()
            before, taken = taken, take_step(search.engine, search.arms, ahead=1 if taken else 0)
            search.step += 1
            if search.step >= averaged_from:
                add_to_sums(search.engine, search.arms, anew=search.step == averaged_from)
            signal, overdue = stop_requested(), time.monotonic() - search.saved_at > SAVE_EVERY_SECONDS
            save_now = signal is not None or overdue
            if before:  # read while the device works on the step after it
                note_step(search, before)
            if taken and (save_now or search.step == step):
                note_step(search, taken)
                taken = None
            search.seconds += time.monotonic() - began
            losses = [arm.state.recent_losses[-1] for arm in search.arms if arm.state.recent_losses]
            advance(note=f"best loss {min(losses):.3f}" if losses else "")
            if save_now:
                save(search, checkpoints)
            if signal:
                raise Interrupted(f"{signal} after step {search.step} of the search; everything is saved",
                                  hint="go on with the same command and --resume")  # fmt: skip


def note_step(search: Search, taken: Taken) -> None:
    """Reads a step's numbers, and gives the arms up that lost their loss in it."""
    note(search.engine, taken)
    for arm in [arm for arm in search.arms if arm.failure]:
        give_up(search, arm, arm.failure or "")
    require_some_left(search)


def require_some_left(search: Search) -> None:
    if not search.arms:
        raise TrainingError("every learning rate of the search lost its loss", code="loss_exploded",
                            hint="look at the data, or set a lower train.learning_rate yourself")  # fmt: skip


def cut(search: Search, step: int, left: int) -> None:
    """Scores all arms by the mean of their last weights, or where the last one is chosen for good cooled down; keeps
    the best `left`, and puts these back to where they were."""
    began = time.monotonic()
    before = {arm.name: search.engine.snapshot(arm.name) for arm in search.arms}
    if left > 1 or search.engine.shares_passes:
        take_means(search.engine, search.arms, steps_of_mean(step))
    else:
        search.extra_tokens += cool_down(search.engine, search.arms)
    rows = search.held_out if left == 1 else spread(search.held_out, ENOUGH_HELD_OUT)
    scores = score_each(search.engine, [arm.name for arm in search.arms], rows)
    for arm in search.arms:
        noted = search.fates[arm.name].scores | {search.step: scores[arm.name].noted}
        search.fates[arm.name] = search.fates[arm.name].model_copy(update={"scores": noted})
    kept = chosen(search, scores, step, left)
    search.run.say("search_cut", cut_sentence(search, scores, kept, left), step=search.step, kept=kept,
                      losses={name: shown(one.mean) for name, one in scores.items()})  # fmt: skip
    for arm in [arm for arm in search.arms if arm.name not in kept]:
        give_up(search, arm, f"held-out loss {scores[arm.name].mean:.4f} after {counted(search.step, 'step')}")
    search.engine.put_back({name: before[name] for name in kept})
    search.compared = step
    search.seconds += time.monotonic() - began


def chosen(search: Search, scores: Mapping[str, Score], step: int, left: int) -> list[str]:
    """Who goes on: `left` of the candidates, or two where these are not plainly apart and a second costs little."""
    if left == 1 and search.engine.shares_passes:
        near = near_best(search.arms, scores, APART)[:2]
        first, last = scores[near[0].name], scores[near[-1].name]
        at_last = step == compared_again(search.total)
        if len(near) > 1 and not (at_last and as_good(first, last, APART, MATTERS)):
            return [arm.name for arm in near]
    return survivors(search.arms, scores, left, search.keeps_budget)


def cut_sentence(search: Search, scores: Mapping[str, Score], kept: Sequence[str], left: int) -> str:
    losses = ", ".join(
        f"{arm.rate:.2g} {scores[arm.name].mean:.4f}{'' if arm.name in kept else ' (given up)'}" for arm in search.arms
    )
    more = "; too near to tell, so both go on" if len(kept) > left else ""
    return f"after {search.step} of {counted(search.total, 'step')}, held-out loss by learning rate: {losses}{more}"


def give_up(search: Search, arm: Arm, why: str) -> None:
    search.arms.remove(arm)
    note_fate(search, arm, why)
    if arm.failure:
        search.run.say("candidate_lost", f"learning rate {arm.rate:.2g} is given up: {why}", level="warning",
                          learning_rate=arm.rate)  # fmt: skip
    search.engine.drop_adapter(arm.name)


def note_fate(search: Search, arm: Arm, fate: str) -> None:
    search.fates[arm.name] = search.fates[arm.name].model_copy(
        update={"steps": arm.state.step, "tokens": arm.state.tokens, "fate": fate}
    )
