"""Counts what `residency check` finds of defects planted into a clean file, and what it finds besides.

    python bench/science/planted_defects.py clean.jsonl [more.jsonl ...] [--rows 10000] [--seed 0] [--show leaks]

Rows that resemble each other are taken out first (exact Jaccard similarity of 0.4), then 100 defects of each kind are
planted. Everything a check names that was not planted for it counts against its precision, natural defects included.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from plant import Planted, Row, plant, without_similar

from residency.data.audit.audit import audit
from residency.data.audit.table import Table
from residency.data.validate import load_examples

RESULTS = Path(__file__).parents[1] / "results"
FLOORS = {
    "exact_duplicates": (0.95, 0.95), "near_duplicates": (0.95, 0.95), "contradictions": (0.95, 0.95),
    "secrets": (0.95, 0.95), "personal_data": (0.95, 0.95), "residue": (0.95, 0.95), "leaks": (0.9, 0.9),
    "format_minority": (0.95, 0.6), "cut_off": (0.0, 0.0),
}  # fmt: skip
"""Recall and precision that each check has to reach."""


def read(files: list[Path], number: int, seed: int) -> list[Row]:
    rows = [
        ("\n".join(message["content"] or "" for message in example.prompt), example.reference)
        for file in files for example in load_examples(str(file)).examples
    ]  # fmt: skip
    random.Random(seed).shuffle(rows)
    return without_similar(rows)[:number]


def table_of_rows(rows: list[Row], file: str) -> Table:
    table = Table()
    for number, (prompt, answer) in enumerate(rows):
        table.files.append(file)
        table.file_lines.append(number)
        table.prompts.append(prompt)
        table.answers.append(answer)
        table.systems.append("")
        table.roles.append("ua")
    return table


def measure(planted: Planted, show: str | None) -> dict[str, Any]:
    began = time.perf_counter()
    found = audit(table_of_rows(planted.rows, "train"), table_of_rows(planted.test, "test"))
    seconds = time.perf_counter() - began
    named = {finding.check: {origin.line for origin in finding.rows} for finding in found.findings}
    checks = {}
    copies = {source: copy for copy, source in planted.sources.items()}
    for check, (recall_floor, precision_floor) in FLOORS.items():
        true = {row for row, kind in enumerate(planted.kinds) if kind == check}
        # A check names the later row of a pair, which may be the copied one.
        rows = {copy if (copy := copies.get(row)) in true else row for row in named.get(check, set())}
        hits = len(true & rows)
        recall, precision = hits / max(1, len(true)), hits / max(1, len(rows))
        checks[check] = {
            "planted": len(true), "named": len(rows), "recall": round(recall, 3), "precision": round(precision, 3),
            "reached": recall >= recall_floor and precision >= precision_floor,
        }  # fmt: skip
        if show == check:
            for what, some in (("missed", true - rows), ("beside", rows - true)):
                for row in sorted(some)[:25]:
                    print(what, planted.kinds[row], row, planted.rows[row], file=sys.stderr)
    return {"rows": len(planted.rows), "seconds": round(seconds, 2), "score": found.score, "checks": checks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=100, help="defects of each kind")
    parser.add_argument("--name", help="writes the result into bench/results/planted-NAME.json")
    parser.add_argument("--show", help="prints what this check missed and what it named besides")
    options = parser.parse_args()
    clean = read(options.files, options.rows, options.seed)
    result = measure(plant(clean, options.each, options.seed), options.show)
    for check, figures in result["checks"].items():
        print(f"{check:18} {'ok ' if figures['reached'] else 'NO '} {figures}")
    print({key: value for key, value in result.items() if key != "checks"})
    if options.name:
        RESULTS.mkdir(exist_ok=True)
        record = json.dumps({"seed": options.seed, **result}, indent=2)
        (RESULTS / f"planted-{options.name}.json").write_text(record + "\n")


if __name__ == "__main__":
    main()
