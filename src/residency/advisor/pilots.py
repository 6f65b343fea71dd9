"""Trains nested subsets of the proposed run, each by the ordinary pipeline, and measures all on the untouched test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from residency import durable
from residency.advisor.probe import deciding
from residency.advisor.scaling import FEWEST_POINTS, Forecast, Point, forecast
from residency.config.load import load_run, merge, parse_run
from residency.config.model import ResolvedConfig, RunConfig
from residency.data.validate import load_examples
from residency.errors import DataError
from residency.evals.run import evaluate
from residency.evals.stats import wilson
from residency.progress import track
from residency.records import EvalResult, RunFolder
from residency.stages.session import open_session
from residency.stages.survey import estimate

Train = Callable[[RunConfig, Path, bool], RunFolder]
"""The pipeline: (run, folder of runs, whether to go on with an unfinished one)."""
SHARES = (8, 4, 2, 1)
"""Subsets have a SHARES-th of the rows; the smallest is trained with two seeds."""
FEWEST_ROWS = 8
MEASURED = "eval/test.tuned.json"


def run_pilots(run_file: Path, record: RunFolder, train: Train, *, times: float, untuned: float) -> Forecast:
    """Trains what is not trained yet below `pilots/` in the folder of `run_file`, and fits the law.

    Every subset has the rate, the batch size and the epochs of the whole run: the same steps for each row. Raises
    DataError where there are too few rows.
    """
    config = load_run(run_file)
    whole = estimate(config).resolved
    rows = load_examples(config.data.train).examples
    lines = [line for line in Path(config.data.train).read_text(encoding="utf-8").splitlines(True) if line.strip()]
    sizes = [len(rows) // share for share in SHARES if len(rows) // share >= FEWEST_ROWS]
    if len(sizes) < FEWEST_POINTS:
        raise DataError(
            f"{len(rows)} rows are too few for pilots", param="examples",
            hint=f"{FEWEST_ROWS * SHARES[-FEWEST_POINTS]} to train on are the least",
        )  # fmt: skip
    plan = [(size, seed) for size in sizes for seed in ((0, 1) if size == sizes[0] else (0,))]
    points = []
    with track("pilots", len(plan)) as advance:
        for size, seed in plan:
            points.append(measure_subset(config, whole, lines[:size], seed, record, train))
            advance()
    found = forecast(points, times=times, untuned=untuned, seed=config.train.seed)
    record.write("pilots.json", found)
    return found


def measure_subset(
    config: RunConfig, whole: ResolvedConfig, lines: Sequence[str], seed: int, record: RunFolder, train: Train
) -> Point:
    """One pilot: trained on `lines` as `whole` says, and measured on the test of `config`."""
    pilots, name = record / "pilots", f"rows-{len(lines)}-seed-{seed}"
    folder = RunFolder(pilots / name)
    if not (folder / MEASURED).exists():
        with durable.disk_errors(pilots):
            pilots.mkdir(exist_ok=True)
        rows = pilots / f"{name}.jsonl"
        durable.write_text(rows, "".join(lines))
        if not (folder / "summary.json").exists():
            begun = (folder / "config.yaml").exists()
            if not begun:
                shutil.rmtree(folder.path, ignore_errors=True)  # a stop before anything was written
            train(pilot_config(config, whole, name, rows, seed), pilots, begun)
        session = open_session(folder)
        assert config.data.test is not None
        test = load_examples(config.data.test, purpose="test").examples
        folder.write(MEASURED, evaluate("test", "tuned", test, session.answer, session.resolved.eval.graders))
    result = folder.read(MEASURED, EvalResult)
    grader = deciding(whole.eval.graders)
    passed = tuple(bool(answer.grades[grader].passed) for answer in result.answers)
    right = wilson(sum(passed), len(passed))
    record.say("pilot", f"{len(lines)} rows, seed {seed}: {right.value:.0%} [{right.low:.0%}, {right.high:.0%}] right")
    return Point(len(lines), seed, passed)


def pilot_config(config: RunConfig, whole: ResolvedConfig, name: str, rows: Path, seed: int) -> RunConfig:
    """The proposed run on a part of its rows, without held-out rows, and without a test or a card of its own."""
    values: dict[str, Any] = yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))
    merge(values, {
        "name": name,
        "data": {"train": str(rows), "eval": None, "test": None},
        "train": {
            "epochs": whole.train.epochs, "batch_size": whole.train.batch_size, "seed": seed,
            "learning_rate": whole.train.learning_rate,
        },
        "eval": {
            "graders": [grader.model_dump(mode="json") for grader in whole.eval.graders], "few_shot": 0,
            "probes": 0, "max_new_tokens": whole.eval.max_new_tokens,
        },
    })  # fmt: skip
    return parse_run(values, source="the pilot")
