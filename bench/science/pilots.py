"""Does the predicted gain of twice the rows cover the measured one? Twenty pilots on the starter model.

    python bench/science/pilots.py [--pilots 20] [--rows 128] [--workers 6] [--model smollm2-135m] [--out FILE]
    CUDA_VISIBLE_DEVICES=1 python bench/science/pilots.py --share 1/4 --workers 5 --out share-1.json
    python bench/science/pilots.py --merge share-*.json

A pilot trains nested subsets of --rows rows (1/8 with two seeds, 1/4, 1/2, all), forecasts twice the rows, then trains
on twice the rows and measures, all on the same untouched test. Five tasks take turns, each time with other rows. Writes
one JSON file after each pilot: forecast, measured gain, whether the interval covers it, and the coverage so far, over
all pilots and over those whose forecast was not refused. What is in that file already is not run again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import worlds
from shares import add_options, read_all, share_of

from residency import durable
from residency.models.load import versions

TASKS = {
    "smart-home": (worlds.smart_home, [{"type": "json_match"}]),
    "dates": (worlds.dates, worlds.EXACT),
    "tickets": (worlds.tickets, worlds.EXACT),
    "orders": (worlds.orders, [{"type": "json_match"}]),
    "initials": (worlds.initials, worlds.EXACT),
}
RESULTS = worlds.ROOT / "bench" / "results" / "pilots.json"
CLAIMED = 0.8


@dataclass(frozen=True)
class Plan:
    task: str
    seed: int
    rows: int
    test_rows: int
    threads: int
    model: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pilots", type=int, default=20)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--test-rows", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, default=RESULTS)
    add_options(parser)
    options = parser.parse_args()
    before = read_all([*options.merge, options.out], "conditions")
    found = list({(one["task"], one["seed"]): one for file in before for one in file["pilots"]}.values())
    if options.merge:
        return written(options.out, before[0]["conditions"], found)
    names = list(TASKS)
    worlds.smart_home(1, 0)  # makes the demo's data once, before the workers need them
    plans = [
        Plan(names[number % len(names)], number, options.rows, options.test_rows, options.threads, options.model)
        for number in range(options.pilots)
    ]
    known = {(one["task"], one["seed"]) for one in found}
    plans = [plan for plan in share_of(plans, options.share) if (plan.task, plan.seed) not in known]
    conditions = {"model": options.model, "rows": options.rows, "test_rows": options.test_rows} | versions()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context) as pool:
        for done in as_completed([pool.submit(pilot, plan) for plan in plans]):
            found.append(done.result())
            print(json.dumps(found[-1]), flush=True)
            written(options.out, conditions, found)
    return written(options.out, conditions, found)


def written(out: Path, conditions: dict[str, Any], found: list[dict[str, Any]]) -> int:
    """0 where the intervals cover what they claim to."""
    covered = coverage(found)
    durable.write_json(out, {"conditions": conditions, "coverage": covered, "pilots": found})
    print(json.dumps(covered), flush=True)
    return 0 if covered["all"] >= CLAIMED else 1


def pilot(plan: Plan) -> dict[str, Any]:
    """Forecast and truth of one task, in a folder that is thrown away."""
    from residency import pipeline
    from residency.advisor.pilots import measure_subset, run_pilots
    from residency.config.load import load_run
    from residency.records import RunFolder
    from residency.stages.survey import estimate

    began = time.monotonic()
    make, graders = TASKS[plan.task]
    rows = make(2 * plan.rows + plan.test_rows, plan.seed)
    test, train = rows[: plan.test_rows], rows[plan.test_rows :]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        worlds.write(folder / "train.jsonl", train[: plan.rows])
        worlds.write(folder / "test.jsonl", test)
        run_file = folder / "run.yaml"
        run_file.write_text(json.dumps({
            "model": {"id": plan.model}, "data": {"train": "train.jsonl", "eval": None, "test": "test.jsonl"},
            "eval": {"graders": graders, "batch_size": 100}, "speed": {"threads": plan.threads},
        }))  # fmt: skip
        record = RunFolder(folder)

        def train_run(config: Any, runs: Path, resume: bool) -> RunFolder:
            return pipeline.run(config, runs, resume=resume)

        forecast = run_pilots(run_file, record, train_run, times=2.0, untuned=0.0)
        config = load_run(run_file)
        lines = [json.dumps(row) + "\n" for row in train]
        doubled = measure_subset(config, estimate(config).resolved, lines, 0, record, train_run)
    share = sum(doubled.passed) / len(doubled.passed)
    measured = share - forecast.shares[plan.rows].value
    return {
        "task": plan.task, "seed": plan.seed, "shares": {size: one.value for size, one in forecast.shares.items()}
        | {2 * plan.rows: share}, "forecast": forecast.gain.model_dump(exclude={"version"}),
        "measured": measured, "covered": forecast.gain.low <= measured <= forecast.gain.high,
        "refused": forecast.refused, "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def coverage(found: list[dict[str, Any]]) -> dict[str, Any]:
    shown = [one for one in found if not one["refused"]]
    return {
        "all": sum(one["covered"] for one in found) / max(1, len(found)), "pilots": len(found),
        "not_refused": sum(one["covered"] for one in shown) / len(shown) if shown else None, "shown": len(shown),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
