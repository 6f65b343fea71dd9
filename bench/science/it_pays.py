"""Whether looking at the data pays: the demo trained with wrong answers among its rows, with and without cleaning.

    python bench/science/it_pays.py [--seeds 0 1 2] [--steps 100] [--wrong 0.15] [--arms ...] [--device auto]

In a share of the demo's rows the answers change places. Then, for equal steps of 8 rows:

    noisy      1,500 rows as they are
    checked    as `check --fix --drop misfit_answers` leaves them: nobody looks, a fifth of the rows goes, and copies
    reviewed   as `check --fix --review` leaves them where a person reads that fifth and refuses what is right
    clean      without the rows that were spoilt, which no check knows: the most that cleaning could give
    few        300 of the checked rows, chosen as `select` does
    many       3,000 noisy rows

Each is graded by json_match on the test rows. Writes bench/results/it_pays.json, one record a seed and arm; what is
there already is not run again, so that it goes on where it was stopped. `--data` names the demo's files where
`make_data.py` (packages hassil, home-assistant-intents) cannot run; `--write-data FOLDER` only writes them, with 3,000
training rows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from residency.config.load import load_run
from residency.config.model import RunConfig
from residency.data.audit.audit import audit
from residency.data.audit.clusters import subjects
from residency.data.audit.coverage import select_rows
from residency.data.audit.embeddings import load_embedder
from residency.data.audit.fix import proposals
from residency.data.audit.table import table_of
from residency.data.messages import Example
from residency.data.validate import load_examples

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "smart-home"
RESULTS = ROOT / "bench" / "results" / "it_pays.json"
FEW, MANY, USUAL = 300, 3000, 1500
ARMS = ("noisy", "checked", "reviewed", "clean", "few", "many")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--wrong", type=float, default=0.15)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--test-rows", type=int, default=150)
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto takes a GPU where there is one")
    parser.add_argument("--model", help="instead of the starter model")
    parser.add_argument("--data", type=Path, help="the demo's files, where they have been written already")
    parser.add_argument("--write-data", type=Path, help="writes them there and ends")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks
    if options.write_data:
        make_data(options.write_data)
        return
    results: list[dict[str, Any]] = json.loads(options.results.read_text()) if options.results.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or make_data(Path(folder))
        for seed in options.seeds:
            key = {"seed": seed, "steps": options.steps, "wrong": options.wrong, "test_rows": options.test_rows}
            key |= {"model": options.model} if options.model else {}
            todo = [
                arm for arm in options.arms if not any(({"arm": arm} | key).items() <= old.items() for old in results)
            ]
            if not todo:
                continue
            arms, found = rows_by_arm(load_examples(str(data / "train.jsonl")).examples, options.wrong, seed)
            print(f"seed {seed}: {found}", flush=True)
            for arm in todo:
                results.append({"arm": arm} | key | found | train_and_test(arms[arm], data, seed, options))
                write(results, options.results)
    for line in verdict(results):
        print(line)


def make_data(folder: Path) -> Path:
    """The demo's files, with as many training rows as the bench needs. The first 1,500 are not those of the demo."""
    sys.path.insert(0, str(DEMO))
    import make_data as recipe

    recipe.ROWS["train"] = MANY
    sys.argv = ["make_data.py", "--out", str(folder)]
    recipe.main()
    return folder


def rows_by_arm(
    examples: Sequence[Example], share: float, seed: int
) -> tuple[dict[str, list[Example]], dict[str, Any]]:
    many, _ = spoil(examples[:MANY], share, seed)
    noisy, wrong = spoil(examples[:USUAL], share, seed)
    number = {example.origin.line: i for i, example in enumerate(noisy)}
    made = [one for one in proposals(audit(table_of(noisy)), drops={"misfit_answers": 1.0}) if one.wanted]
    removed = np.zeros(len(noisy), dtype=np.bool_)
    refused = np.zeros(len(noisy), dtype=np.bool_)
    for change in made:
        row = number[change.origin.line]
        removed[row] = change.action == "drop"
        refused[row] = change.check == "misfit_answers" and not wrong[row]
    kept = np.flatnonzero(~removed)
    prompts = load_embedder().embed(subjects(table_of(noisy)))
    few = kept[select_rows(prompts[kept], FEW, seed=seed).rows]
    arms = {
        "noisy": noisy,
        "checked": [noisy[i] for i in kept],
        "reviewed": [noisy[i] for i in np.flatnonzero(~removed | refused)],
        "clean": [noisy[i] for i in np.flatnonzero(~wrong)],
        "few": [noisy[i] for i in few],
        "many": many,
    }
    rightly = int((removed & wrong).sum())
    return arms, {"spoilt": int(wrong.sum()), "removed": int(removed.sum()), "removed_rightly": rightly,
                  "spoilt_among_few": int(wrong[few].sum())}  # fmt: skip


def spoil(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], np.ndarray]:
    """A share of the rows pass their answers round; a row that receives its own words again is not wrong."""
    chosen = random.Random(seed).sample(range(len(examples)), round(share * len(examples)))
    rows = list(examples)
    for taker, giver in zip(chosen, [*chosen[1:], *chosen[:1]], strict=True):
        rows[taker] = replace(rows[taker], messages=(*rows[taker].prompt, examples[giver].messages[-1]))
    return rows, np.array([new.reference != old.reference for new, old in zip(rows, examples, strict=True)])


def train_and_test(rows: Sequence[Example], data: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    from residency.evals.run import evaluate
    from residency.methods import sft
    from residency.records import RunFolder
    from residency.stages.model import result_name, start_engine
    from residency.stages.prepare import prepare
    from residency.stages.session import Session

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        train = Path(folder) / "train.jsonl"
        train.write_text("".join(json.dumps({"messages": row.messages}) + "\n" for row in rows), encoding="utf-8")
        run = RunFolder(Path(folder) / "run")
        run.path.mkdir()
        prepared = prepare(configuration(train, data, seed, options), run)
        engine, name = start_engine(prepared, run), result_name(prepared.resolved)
        outcome = sft.train(engine, name, prepared.rows, (), prepared.resolved.train, run)
        session = Session(run, prepared.resolved, engine, prepared.renderer, None).tuned()
        record: dict[str, Any] = {"rows": len(rows), "train_loss": float(np.mean(outcome.progress.recent_losses)),
                                  "device": engine.device.type}  # fmt: skip
        for test, examples in prepared.tests.items():
            asked = examples[: options.test_rows]
            graded = evaluate(test, "tuned", asked, session.answer, prepared.resolved.eval.graders)
            record[test] = {grader: each.model_dump(include={"value", "low", "high", "n"})
                            for grader, each in graded.summaries.items()}  # fmt: skip
    return record | {"seconds": round(time.monotonic() - began)}


def configuration(train: Path, data: Path, seed: int, options: argparse.Namespace) -> RunConfig:
    settings = {"data.train": train, "data.eval": "null", "data.test": data / "test.jsonl",
                "train.max_steps": options.steps, "train.epochs": 100, "train.seed": seed, "eval.few_shot": 0,
                "eval.more_tests.unseen-wordings": data / "test-unseen-wordings.jsonl",
                **({"model.id": options.model} if options.model else {})}  # fmt: skip
    return load_run(DEMO / "run.yaml", [f"{path}={value}" for path, value in settings.items()])


def write(results: list[dict[str, Any]], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=2) + "\n")
    last = results[-1]
    shares = {name: round(each["value"], 3) for name, each in last["test"].items()}
    print(f"seed {last['seed']} {last['arm']:8} {last['rows']:5} rows: {shares}, {last['seconds']} s", flush=True)


def verdict(results: Sequence[dict[str, Any]]) -> list[str]:
    """In how many seeds the first arm of a pair has the higher share of right answers."""
    said = []
    for better, worse in (("checked", "noisy"), ("reviewed", "noisy"), ("clean", "noisy"), ("few", "many")):
        by_seed = [{each["seed"]: each["test"]["json_match"]["value"] for each in results if each["arm"] == arm}
                   for arm in (better, worse)]  # fmt: skip
        seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
        wins = sum(by_seed[0][seed] > by_seed[1][seed] for seed in seeds)
        said += [f"{better} above {worse} in {wins} of {len(seeds)} seeds"] if seeds else []
    return said


if __name__ == "__main__":
    main()
