"""How well the rows themselves rank swapped answers: no model, two seconds for ten thousand rows.

    python bench/science/misfits.py rows.jsonl [more.jsonl ...] [--swapped 0.15] [--rows 10000]

AUROC is the chance that a swapped row stands before a right one, with a 95 % bootstrap interval. The constants were
chosen on mixed, mixed-unseen-2, mixed-unseen-3 and chatterbot.
Writes bench/results/misfits.json.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

from it_pays import spoil
from model_eye import auroc

from residency.data.audit.subjects import answer_fits
from residency.data.audit.table import table_of
from residency.data.validate import load_examples

RESULTS = Path(__file__).parents[1] / "results" / "misfits.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--swapped", type=float, default=0.15)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for file in options.files:
        examples = load_examples(str(file)).examples
        random.Random(options.seed).shuffle(examples)
        rows, wrong = spoil(examples[: options.rows], options.swapped, options.seed)
        table = table_of(rows)
        began = time.monotonic()
        scores = answer_fits(table, options.seed)
        found = auroc(-scores, wrong) | {"seconds": round(time.monotonic() - began, 2)}
        results[f"{file.stem}, {options.swapped:.0%} swapped"] = found
        low, high = found["interval"]
        print(f"{file.stem:20} {len(rows):6} rows: AUROC {found['auroc']:.3f} [{low:.3f}, {high:.3f}]", flush=True)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
