"""How well the model's eye ranks wrong answers: swapped ones in real rows, and counterfactual facts.

    python bench/science/model_eye.py rows.jsonl [more.jsonl ...] [--rows 1000] [--of 10000] [--swapped 0.15]

Without files it reads the documentation of installed packages (`docstrings.py`). In each corpus a share of the answers
change places with each other. As in the product, all its rows (at most `--of`) tell what goes together, and the model
reads `--rows` of them; the ranking is by `doubts`. The facts (`facts.py`) are ranked by the gap to the
model's own answer. AUROC is the chance that a wrong row stands before a right one, with a 95 % bootstrap interval.
Writes bench/results/model_eye.json.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from docstrings import docstring_rows
from facts import facts
from scipy.stats import rankdata

from residency.config.model import Model
from residency.data.audit.subjects import answer_fits
from residency.data.audit.table import table_of
from residency.data.messages import Example, Origin
from residency.data.render import Renderer, renderer_for
from residency.data.validate import load_examples
from residency.engine.engine import Engine
from residency.evals.model_eye import ask, doubts, follow
from residency.models.load import load_model, load_tokenizer

RESULTS = Path(__file__).parents[1] / "results" / "model_eye.json"
PACKAGES = ("stdlib", "numpy", "scipy")
LONGEST_CHARACTERS = 1200
"""Longer rows are left out of the bench, for its time's sake."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--of", type=int, default=10_000)
    parser.add_argument("--swapped", type=float, default=0.15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-facts", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = Model(id=options.model)
    renderer = renderer_for(load_tokenizer(model))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    engine = Engine(load_model(model, dtype=torch.float32, device=device))
    for name, rows in corpora(options.files):
        found = swapped(engine, renderer, rows, options)
        write(f"swapped: {name}, {found['rows']:,} of {found['of_rows']:,} rows", found)
    if not options.no_facts:
        write("counterfactual facts", counterfactual(engine, renderer, options))


def corpora(files: Sequence[Path]) -> list[tuple[str, list[Example]]]:
    if files:
        return [(file.stem, load_examples(str(file)).examples) for file in files]
    rows = docstring_rows(PACKAGES, 100_000)
    return [("docstrings", [Example(Origin("docstrings", i), tuple(row["messages"])) for i, row in enumerate(rows)])]


def swapped(engine: Engine, renderer: Renderer, rows: Sequence[Example], options: argparse.Namespace) -> dict[str, Any]:
    short = [row for row in rows if sum(len(each["content"] or "") for each in row.messages) <= LONGEST_CHARACTERS]
    random.Random(options.seed).shuffle(short)
    given, changed = swap_answers(short[: options.of], options.swapped)
    drawn = np.random.default_rng(options.seed).permutation(len(given))[: options.rows]
    chosen, wrong = [given[row] for row in drawn], changed[drawn]
    began = time.monotonic()
    fits = answer_fits(table_of(given))[drawn]
    learned = time.monotonic()
    read = follow(engine, renderer, chosen)
    return auroc(doubts(read, fits), wrong) | {
        "of_rows": len(given),
        "by_the_model_alone": area(-read.gains, wrong),
        "by_its_ratios": area(read.ratios, wrong),
        "by_the_other_rows_alone": area(-fits, wrong),
        "seconds_for_all_rows": learned - began,
        "seconds_a_row_read": (time.monotonic() - learned) / len(chosen),
    }


def swap_answers(rows: Sequence[Example], share: float) -> tuple[list[Example], np.ndarray]:
    """The first `share` of the rows pass their answers round; one that receives its own words again is not wrong."""
    count = round(share * len(rows))
    given = [row.messages[-1] for row in rows[1:count]] + [rows[0].messages[-1]] if count else []
    changed = [replace(row, messages=(*row.prompt, answer)) for row, answer in zip(rows, given, strict=False)]
    both = [*changed, *rows[count:]]
    return both, np.array([new.reference != old.reference for new, old in zip(both, rows, strict=True)])


def counterfactual(engine: Engine, renderer: Renderer, options: argparse.Namespace) -> dict[str, Any]:
    asked = facts(0.3, options.seed)
    rows = [
        Example(Origin("facts", i), ({"role": "user", "content": question}, {"role": "assistant", "content": answer}))
        for i, (question, answer, _) in enumerate(asked)
    ]
    wrong = np.array([each[2] for each in asked])
    began = time.monotonic()
    beliefs = ask(engine, renderer, rows, options.seed)
    seconds = (time.monotonic() - began) / len(rows)
    by_kind = {
        name: dict(Counter(belief.knowledge for belief, bad in zip(beliefs, wrong, strict=True) if bad == kind))
        for name, kind in (("of the right ones", False), ("of the counterfactual ones", True))
    }
    return auroc(np.array([belief.gap for belief in beliefs]), wrong) | by_kind | {"seconds_per_row": seconds}


def auroc(scores: np.ndarray, wrong: np.ndarray) -> dict[str, Any]:
    chance = np.random.default_rng(0)
    draws = (chance.integers(0, len(wrong), len(wrong)) for _ in range(1000))
    sampled = [area(scores[draw], wrong[draw]) for draw in draws if 0 < wrong[draw].sum() < len(draw)]
    low, high = np.quantile(sampled, (0.025, 0.975))
    top = np.argsort(-scores, kind="stable")[: int(wrong.sum())]
    return {
        "auroc": area(scores, wrong),
        "interval": [float(low), float(high)],
        "rows": len(wrong),
        "wrong": int(wrong.sum()),
        "precision_of_the_first": float(wrong[top].mean()),
    }


def area(scores: np.ndarray, wrong: np.ndarray) -> float:
    ranks, positives = rankdata(scores), int(wrong.sum())
    return float((ranks[wrong].sum() - positives * (positives + 1) / 2) / (positives * (len(wrong) - positives)))


def write(name: str, found: dict[str, Any]) -> None:
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results | {name: found}, indent=2) + "\n")
    print(f"{name}: AUROC {found['auroc']:.3f} [{found['interval'][0]:.3f}, {found['interval'][1]:.3f}]", flush=True)


if __name__ == "__main__":
    main()
