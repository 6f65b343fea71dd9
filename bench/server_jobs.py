"""Several LoRA jobs on one base: trained in one process, against a process each, one after another.

    python bench/server_jobs.py [--model smollm2-135m] [--jobs 4] [--rows 200] [--steps 20] [--device cpu|cuda:0]

The trainer alone is timed, as the server's worker starts it; no server is needed. Each job has rows of its own like the
demo's, and all that a job of the server goes through: check, load, the base's answers (remembered from a job before the
clock starts), training, retention, card, report. Both ways are timed in turn, `--rounds` times. `--model tiny` is a
model of two layers with random weights, made on the spot. Adds a line to bench/results/server_jobs.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from residency.models.load import versions
from residency.records import RunFolder, Summary
from residency.server.trainer_files import ENDED, exit_code
from residency.server.worker_child import TRAINER, start_trainer, stop

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "server_jobs.jsonl"
sys.path[:0] = [str(HERE / "science"), str(HERE.parent)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a name, a folder, or `tiny`")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        found = measure(options, Path(folder))
    with RESULTS.open("a") as file:
        file.write(json.dumps(found) + "\n")
    print(json.dumps(found, indent=2))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    if options.model == "tiny":
        from tests.e2e.tiny import make_model_folder

        options.model = str(make_model_folder(folder / "tiny"))
    timed(options, [new_job(options, folder / "before", 0)], folder / "before")
    rounds: dict[str, list[dict[str, Any]]] = {"one after another": [], "together": []}
    for number in range(options.rounds):
        for way, taken in rounds.items():
            place = folder / f"{number} {way}"
            works = [new_job(options, place, seed) for seed in range(1, options.jobs + 1)]
            groups = [works] if way == "together" else [[work] for work in works]
            taken.append(timed_groups(options, groups, place))
            print(number, way, json.dumps(taken[-1]), file=sys.stderr, flush=True)
    middle = {way: statistics.median(one["seconds"] for one in taken) for way, taken in rounds.items()}
    settings = {key: value for key, value in vars(options).items() if key != "model"}
    return settings | {
        "model": Path(options.model).name, "seconds": middle,
        "ratio": middle["together"] / middle["one after another"], "rounds": rounds, "versions": versions(),
    }  # fmt: skip


def new_job(options: argparse.Namespace, place: Path, seed: int) -> Path:
    """A run file with its rows, in a folder as a worker makes it."""
    from tasks import TASKS

    work = place / "work" / f"job-{seed}"
    work.mkdir(parents=True)
    pairs = TASKS["home"](random.Random(seed), options.rows)
    turns = [[{"role": "user", "content": asked}, {"role": "assistant", "content": told}] for asked, told in pairs]
    (work / "train.jsonl").write_text("".join(json.dumps({"messages": one}) + "\n" for one in turns))
    run = {
        "name": work.name, "model": {"id": options.model}, "adapter": {"kind": "lora"},
        "data": {"train": str(work / "train.jsonl"), "eval": None},
        "train": {"seed": seed, "max_steps": options.steps, "save_every_steps": "epoch", "eval_every_steps": "epoch"},
    }  # fmt: skip
    (work / "run.yaml").write_text(yaml.safe_dump(run))
    return work


def timed_groups(options: argparse.Namespace, groups: Sequence[Sequence[Path]], place: Path) -> dict[str, Any]:
    """Seconds from the first start to the end of each job, and all jobs' seconds by stage; `start` is what no stage
    has: processes and imports."""
    began, ends = time.time(), list[float]()
    for group in groups:
        timed(options, group, place)
        ends += [(work / ENDED).stat().st_mtime - began for work in group]
    seconds = time.time() - began
    stages = Counter[str]()
    for work in (work for group in groups for work in group):
        stages.update(RunFolder(place / "runs" / work.name).read("summary.json", Summary).seconds)
    stages["start"] = seconds - sum(stages.values())
    return {"seconds": seconds, "ends": ends, "stages": {name: round(value, 2) for name, value in stages.items()}}


def timed(options: argparse.Namespace, group: Sequence[Path], place: Path) -> None:
    process = start_trainer(TRAINER, group, place / "runs", options.device)
    code = process.wait()
    stop(process)
    assert [code, *map(exit_code, group)] == [0] * (1 + len(group)), (group[0] / "trainer.log").read_text()


if __name__ == "__main__":
    main()
