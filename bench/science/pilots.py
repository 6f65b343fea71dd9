"""Does the predicted gain of twice the rows cover the measured one? Twenty pilots on the starter model.

    python bench/science/pilots.py [--pilots 20] [--rows 128] [--model smollm2-135m] [--minutes 8] [--out FILE]
    CUDA_VISIBLE_DEVICES=1 python bench/science/pilots.py --share 1/4 --out share-1.json
    python bench/science/pilots.py --merge share-*.json

A pilot trains nested subsets of --rows rows (1/8 with two seeds, 1/4, 1/2, all) and twice the rows side by side on one
base, forecasts twice the rows from the subsets, and measures all on the same untouched test. Five tasks take turns,
each time with other rows. Pilots follow each other on the same base, and `--minutes` begins none after that time.
Writes one JSON file after each pilot: forecast, measured gain, whether the interval covers it, and the coverage so far,
over all pilots and over those whose forecast was not refused. What is in that file already is not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import worlds
from shares import add_options, read_all, share_of

from residency import durable
from residency.advisor.pilots import measure_subsets, nested, prepare_whole
from residency.advisor.scaling import forecast
from residency.data.validate import load_examples
from residency.models.load import versions
from residency.records import RunFolder
from residency.stages.base import Base

TASKS = {
    "smart-home": (worlds.smart_home, [{"type": "json_match"}]),
    "dates": (worlds.dates, worlds.EXACT),
    "tickets": (worlds.tickets, worlds.EXACT),
    "orders": (worlds.orders, [{"type": "json_match"}]),
    "initials": (worlds.initials, worlds.EXACT),
}
RESULTS = worlds.ROOT / "bench" / "results" / "pilots.json"
CLAIMED = 0.8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pilots", type=int, default=20)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--test-rows", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--out", type=Path, default=RESULTS)
    add_options(parser)
    options = parser.parse_args()
    before = read_all([*options.merge, options.out], "conditions")
    found = list({(one["task"], one["seed"]): one for file in before for one in file["pilots"]}.values())
    if options.merge:
        return written(options.out, before[0]["conditions"], found)
    began, names, base = time.monotonic(), list(TASKS), Base()
    known = {(one["task"], one["seed"]) for one in found}
    conditions = {"model": options.model, "rows": options.rows, "test_rows": options.test_rows} | versions()
    for seed in share_of(range(options.pilots), options.share):
        task = names[seed % len(names)]
        if (task, seed) in known or time.monotonic() - began > 60 * options.minutes:
            continue
        found.append(pilot(task, seed, base, options))
        print(json.dumps(found[-1]), flush=True)
        written(options.out, conditions, found)
    return written(options.out, conditions, found)


def written(out: Path, conditions: dict[str, Any], found: list[dict[str, Any]]) -> int:
    """0 where the intervals cover what they claim to."""
    covered = coverage(found)
    durable.write_json(out, {"conditions": conditions, "coverage": covered, "pilots": found})
    print(json.dumps(covered), flush=True)
    return 0 if covered["all"] >= CLAIMED else 1


def pilot(task: str, seed: int, base: Base, options: argparse.Namespace) -> dict[str, Any]:
    """Forecast and truth of one task, in a folder that is thrown away."""
    began = time.monotonic()
    make, graders = TASKS[task]
    rows = make(2 * options.rows + options.test_rows, seed)
    test, train = rows[: options.test_rows], rows[options.test_rows :]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        worlds.write(folder / "train.jsonl", train[: options.rows])
        worlds.write(folder / "twice.jsonl", train)
        worlds.write(folder / "test.jsonl", test)
        run_file = folder / "run.yaml"
        run_file.write_text(json.dumps({
            "model": {"id": options.model},
            "data": {"train": "train.jsonl", "eval": None, "test": "test.jsonl"},
            "eval": {"graders": graders, "batch_size": 100}, "speed": {"threads": options.threads},
        }))  # fmt: skip
        record = RunFolder(folder)
        whole = prepare_whole(run_file, record, base)
        twice = replace(whole, rows=whole.renderer.render_all(load_examples(str(folder / "twice.jsonl")).examples))
        subsets = [*nested(options.rows), (2 * options.rows, 0)]
        *points, doubled = measure_subsets(twice, subsets, record, base)
    found = forecast(points, times=2.0, untuned=0.0)
    share = sum(doubled.passed) / len(doubled.passed)
    measured = share - found.shares[options.rows].value
    return {
        "task": task, "seed": seed, "shares": {size: one.value for size, one in found.shares.items()}
        | {2 * options.rows: share}, "forecast": found.gain.model_dump(exclude={"version"}),
        "measured": measured, "covered": found.gain.low <= measured <= found.gain.high,
        "refused": found.refused, "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def coverage(found: list[dict[str, Any]]) -> dict[str, Any]:
    shown = [one for one in found if not one["refused"]]
    return {
        "all": sum(one["covered"] for one in found) / max(1, len(found)), "pilots": len(found),
        "not_refused": sum(one["covered"] for one in shown) / len(shown) if shown else None, "shown": len(shown),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
