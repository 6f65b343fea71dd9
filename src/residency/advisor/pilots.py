"""Trains nested subsets of the proposed run's rows on one base, and measures all on the untouched test.

A subset is trained exactly as the run would be, replay included, side by side with the others where the engine shares
passes. It has no held-out rows, and nothing of it is measured but its answers: the forecast needs no more.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from residency import durable
from residency.advisor.probe import deciding
from residency.advisor.scaling import FEWEST_POINTS, Forecast, Point, forecast
from residency.config.load import load_run, merge, parse_run
from residency.config.model import Full, RunConfig
from residency.config.steps import total_steps
from residency.errors import DataError, Interrupted, RunError
from residency.evals.run import evaluate
from residency.evals.stats import wilson
from residency.methods import sft
from residency.methods.passes import Run, together
from residency.records import EvalResult, RunFolder
from residency.stages.base import Base
from residency.stages.prepare import Prepared, prepare
from residency.stages.retention import replay_alone
from residency.stages.session import Session

Subset: TypeAlias = tuple[int, int]
"""(the first so many rows, seed)"""
SHARES = (8, 4, 2, 1)
"""Subsets have a SHARES-th of the rows; the smallest is trained with two seeds."""
FEWEST_ROWS = 8
LEAST_ROWS = FEWEST_ROWS * SHARES[-FEWEST_POINTS]
FOLDER = "pilots"
MEASURED = "eval/test.tuned.json"


def run_pilots(run_file: Path, record: RunFolder, *, times: float, untuned: float) -> Forecast:
    """Trains what is not trained yet below `pilots/` in the folder of `record`, and fits the law.

    Raises DataError where there are too few rows, Interrupted between steps.
    """
    base = Base()
    whole = prepare_whole(run_file, record, base)
    points = measure_subsets(whole, nested(len(whole.rows)), record, base)
    found = forecast(points, times=times, untuned=untuned, seed=whole.resolved.train.seed)
    record.write("pilots.json", found)
    return found


def prepare_whole(run_file: Path, record: RunFolder, base: Base) -> Prepared:
    """The proposed run on all of its rows, none held out: its rate, batch size and epochs are every subset's, which
    makes the same steps for each row. What was measured before with other rows is thrown away."""
    config = without_held_out(load_run(run_file))
    pilots = RunFolder(record / FOLDER, record.listener)
    with durable.disk_errors(pilots.path):
        pilots.path.mkdir(exist_ok=True)
    try:
        return prepare(config, pilots, base.machine)
    except RunError as error:
        if error.code != "data_changed":
            raise
    record.say("pilots_restarted", "the rows have changed since the pilots began: they begin again", level="warning")
    shutil.rmtree(pilots.path)
    pilots.path.mkdir()
    return prepare(config, pilots, base.machine)


def without_held_out(config: RunConfig) -> RunConfig:
    values: dict[str, Any] = yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))
    merge(values, {"data": {"eval": None}, "eval": {"few_shot": 0, "probes": 0}})
    return parse_run(values, source="the pilots")


def nested(rows: int) -> list[Subset]:
    """The subsets of so many rows. Raises DataError where they are too few."""
    sizes = [rows // share for share in SHARES if rows // share >= FEWEST_ROWS]
    if len(sizes) < FEWEST_POINTS:
        raise DataError(
            f"{rows} rows are too few for pilots", param="examples",
            hint=f"{LEAST_ROWS} to train on are the least",
        )  # fmt: skip
    return [(sizes[0], 0), (sizes[0], 1), *((size, 0) for size in sizes[1:])]


def measure_subsets(whole: Prepared, subsets: Sequence[Subset], record: RunFolder, base: Base) -> list[Point]:
    """One point each, in their order; what is measured already is not trained again."""
    left = [subset for subset in subsets if not (folder_of(subset, record) / MEASURED).exists()]
    stopped: list[Interrupted] = []
    full = isinstance(whole.resolved.adapter, Full)  # one set of weights: each subset begins with a base of its own
    together([pilot(whole, subset, record, Base() if full else base, stopped) for subset in left])
    if stopped:
        raise stopped[0]
    return [point(whole, subset, record) for subset in subsets]


def pilot(whole: Prepared, subset: Subset, record: RunFolder, base: Base, stopped: list[Interrupted]) -> Run[None]:
    """Trains one subset, or goes on with it, and measures it. A signal stops all; each saves itself first."""
    folder, prepared = folder_of(subset, record), part_of(whole, subset)
    folder.path.mkdir(exist_ok=True)
    with base.joined(folder):
        engine, name = base.start(prepared, folder)
        session = Session(folder, prepared.resolved, engine, prepared.renderer, None, name)
        keep = replay_alone(session, prepared)
        try:
            yield from sft.training(engine, name, prepared.rows, (), prepared.resolved.train, folder, keep)
        except Interrupted as error:
            stopped.append(error)
            return
        graders = prepared.resolved.eval.graders
        folder.write(MEASURED, evaluate("test", "tuned", prepared.tests["test"], session.tuned().answer, graders))
    shutil.rmtree(folder / "checkpoints")
    found = point(whole, subset, record)
    right = wilson(sum(found.passed), len(found.passed))
    record.say("pilot", f"{found.rows} rows, seed {found.seed}: {right.value:.0%} [{right.low:.0%}, {right.high:.0%}] "
               f"right")  # fmt: skip


def part_of(whole: Prepared, subset: Subset) -> Prepared:
    """Its checkpoints are for going on alone, so one at the end, and one every few minutes, are enough."""
    size, seed = subset
    rows = whole.rows[:size]
    train = whole.resolved.train.model_copy(update={"seed": seed})
    train = train.model_copy(update={"save_every_steps": total_steps(train, len(rows))})
    return replace(whole, rows=rows, resolved=whole.resolved.model_copy(update={"train": train}))


def folder_of(subset: Subset, record: RunFolder) -> RunFolder:
    size, seed = subset
    return RunFolder(record / FOLDER / f"rows-{size}-seed-{seed}", record.listener)


def point(whole: Prepared, subset: Subset, record: RunFolder) -> Point:
    grader = deciding(whole.resolved.eval.graders)
    answers = folder_of(subset, record).read(MEASURED, EvalResult).answers
    return Point(*subset, tuple(bool(answer.grades[grader].passed) for answer in answers))
