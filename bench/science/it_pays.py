"""Whether looking at the data pays: the demo trained with wrong answers among its rows, with and without cleaning.

    python bench/science/it_pays.py [--seeds 0 1 2] [--steps 100] [--wrong 0.15] [--arms noisy checked clean few many]

`make_data.py` writes the demo's rows. In a share of them the answers change places. Then, for equal steps:

    noisy     all rows as they are
    checked   without the rows whose answers fit least (`fit_scores` below BELOW): nobody looks at them again
    clean     without the rows that were spoilt, which no check knows: the most that cleaning could give
    few       300 of the checked rows, chosen by `select_rows`
    many      3,000 noisy rows

Each is graded by json_match on the test rows. Writes bench/results/it_pays.json, one record a seed and arm; what is
there already is not run again.
"""

from __future__ import annotations

import argparse
import json
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
from residency.data.audit.clusters import subjects
from residency.data.audit.coverage import select_rows
from residency.data.audit.embeddings import load_embedder
from residency.data.audit.misfits import fit_scores
from residency.data.audit.table import table_of
from residency.data.messages import Example
from residency.data.validate import load_examples
from residency.evals.run import evaluate
from residency.methods import sft
from residency.records import RunFolder
from residency.stages.model import result_name, start_engine
from residency.stages.prepare import prepare
from residency.stages.session import Session

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "smart-home"
RESULTS = ROOT / "bench" / "results" / "it_pays.json"
BELOW = -3.0
FEW, MANY, USUAL = 300, 3000, 1500
ARMS = ("noisy", "checked", "clean", "few", "many")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--wrong", type=float, default=0.15)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS[:3])
    parser.add_argument("--test-rows", type=int, default=150)
    parser.add_argument("--data", type=Path, help="the demo's files, where make_data.py has written them already")
    options = parser.parse_args()
    results: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or make_data(Path(folder), MANY if "many" in options.arms else USUAL)
        for seed in options.seeds:
            arms, found = rows_by_arm(load_examples(str(data / "train.jsonl")).examples, options.wrong, seed)
            print(f"seed {seed}: {found}", flush=True)
            for arm in options.arms:
                key = {"arm": arm, "seed": seed, "steps": options.steps, "wrong": options.wrong,
                       "test_rows": options.test_rows}  # fmt: skip
                if not any(key.items() <= result.items() for result in results):
                    results.append(key | found | train_and_test(arms[arm], data, seed, options))
                    write(results)


def make_data(folder: Path, rows: int) -> Path:
    """The demo's files, with as many training rows as the bench needs."""
    sys.path.insert(0, str(DEMO))
    import make_data as recipe

    recipe.ROWS["train"] = rows
    sys.argv = ["make_data.py", "--out", str(folder)]
    recipe.main()
    return folder


def rows_by_arm(
    examples: Sequence[Example], share: float, seed: int
) -> tuple[dict[str, list[Example]], dict[str, Any]]:
    many, _ = spoil(examples, share, seed)
    noisy, wrong = spoil(examples[:USUAL], share, seed)
    table, embedder = table_of(noisy), load_embedder()
    prompts = embedder.embed(subjects(table))
    suspected = fit_scores(prompts, embedder.embed(table.answers)) < BELOW
    kept = np.flatnonzero(~suspected)
    few = kept[select_rows(prompts[kept], FEW, seed=seed).rows]
    arms = {
        "noisy": noisy,
        "checked": [noisy[i] for i in kept],
        "clean": [noisy[i] for i in np.flatnonzero(~wrong)],
        "few": [noisy[i] for i in few],
        "many": many,
    }
    right = int((suspected & wrong).sum())
    return arms, {"spoilt": int(wrong.sum()), "removed": int(suspected.sum()), "removed_rightly": right,
                  "spoilt_among_few": int(wrong[few].sum())}  # fmt: skip


def spoil(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], np.ndarray]:
    """A share of the rows pass their answers round; a row that receives its own words again is not wrong."""
    chosen = random.Random(seed).sample(range(len(examples)), round(share * len(examples)))
    rows = list(examples)
    for taker, giver in zip(chosen, [*chosen[1:], *chosen[:1]], strict=True):
        rows[taker] = replace(rows[taker], messages=(*rows[taker].prompt, examples[giver].messages[-1]))
    return rows, np.array([new.reference != old.reference for new, old in zip(rows, examples, strict=True)])


def train_and_test(rows: Sequence[Example], data: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        train = Path(folder) / "train.jsonl"
        train.write_text("".join(json.dumps({"messages": row.messages}) + "\n" for row in rows), encoding="utf-8")
        run = RunFolder(Path(folder) / "run")
        run.path.mkdir()
        prepared = prepare(configuration(train, data, seed, options.steps), run)
        engine, name = start_engine(prepared, run), result_name(prepared.resolved)
        outcome = sft.train(engine, name, prepared.rows, (), prepared.resolved.train, run)
        session = Session(run, prepared.resolved, engine, prepared.renderer, None).tuned()
        record: dict[str, Any] = {"rows": len(rows), "train_loss": float(np.mean(outcome.progress.recent_losses))}
        for test, examples in prepared.tests.items():
            asked = examples[: options.test_rows]
            graded = evaluate(test, "tuned", asked, session.answer, prepared.resolved.eval.graders)
            record[test] = {grader: each.model_dump(include={"value", "low", "high", "n"})
                            for grader, each in graded.summaries.items()}  # fmt: skip
    return record | {"seconds": round(time.monotonic() - began)}


def configuration(train: Path, data: Path, seed: int, steps: int) -> RunConfig:
    settings = {"data.train": train, "data.eval": "null", "data.test": data / "test.jsonl", "train.max_steps": steps,
                "train.seed": seed, "eval.few_shot": 0,
                "eval.more_tests.unseen-wordings": data / "test-unseen-wordings.jsonl"}  # fmt: skip
    return load_run(DEMO / "run.yaml", [f"{path}={value}" for path, value in settings.items()])


def write(results: list[dict[str, Any]]) -> None:
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    last = results[-1]
    shares = {name: round(each["value"], 3) for name, each in last["test"].items()}
    print(f"seed {last['seed']} {last['arm']:8} {last['rows']:5} rows: {shares}, {last['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
