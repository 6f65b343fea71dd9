"""Counts what `residency check` finds of defects planted into a clean file, and what it finds besides.

    python bench/science/planted_defects.py file.jsonl [more.jsonl ...] [--rows 10000] [--seed 0] [--clean]
                                            [--show leaks ...]

Rows that resemble each other are taken out first (exact Jaccard similarity of 0.4), then 100 defects of each kind are
planted. Everything a check names that was not planted for it counts against its precision, natural defects included;
`natural` are those of them that it names in the file without planted defects as well. What a check says in a note of
its own, as a manual's example or a question with many answers, is no defect that it names; `noted` counts those rows.
With `--clean` it is all done once more on the rows that are clean to begin with, see clean.py.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from clean import clean_rows
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
NOTES = {"secrets": "example_secrets", "contradictions": "varied_answers"}


def read(files: list[Path]) -> list[Row]:
    return [
        ("\n".join(message["content"] or "" for message in example.prompt), example.reference)
        for file in files for example in load_examples(str(file)).examples
    ]  # fmt: skip


def unlike(rows: list[Row], number: int, seed: int) -> list[Row]:
    shuffled = list(rows)
    random.Random(seed).shuffle(shuffled)
    return without_similar(shuffled)[:number]


def table_of_rows(rows: list[Row], file: str) -> Table:
    table = Table()
    for number, (prompt, answer) in enumerate(rows):
        table.files.append(file)
        table.file_lines.append(number)
        table.prompts.append(prompt)
        table.answers.append(answer)
        table.systems.append("")
        table.roles.append("ua")
        table.marked_bad.append(False)
    return table


def measure(planted: Planted, shown: Collection[str]) -> dict[str, Any]:
    began = time.perf_counter()
    found = audit(table_of_rows(planted.rows, "train"), table_of_rows(planted.test, "test"))
    seconds = time.perf_counter() - began
    before = named_in_clean(planted)
    named = {finding.check: {origin.line for origin in finding.rows} for finding in found.findings}
    checks = {}
    copies = {source: copy for copy, source in planted.sources.items()}
    for check, (recall_floor, precision_floor) in FLOORS.items():
        true = {row for row, kind in enumerate(planted.kinds) if kind == check}
        # A check names the later row of a pair, which may be the copied one.
        rows = {copy if (copy := copies.get(row)) in true else row for row in named.get(check, set())}
        natural = (rows & before.get(check, set())) - true
        hits = len(true & rows)
        recall, precision = hits / max(1, len(true)), hits / max(1, len(rows))
        checks[check] = {
            "planted": len(true), "named": len(rows), "recall": round(recall, 3), "precision": round(precision, 3),
            "natural": len(natural), "precision_without_natural": round(hits / max(1, len(rows - natural)), 3),
            **({"noted": len(named.get(NOTES[check], ())), "planted_noted": len(true & named.get(NOTES[check], set()))}
               if check in NOTES else {}),
            "reached": recall >= recall_floor and precision >= precision_floor,
        }  # fmt: skip
        if check in shown:
            for what, some in (("missed", true - rows), ("natural", natural), ("beside", rows - true - natural)):
                for row in sorted(some):
                    print(check, what, planted.kinds[row], row, planted.rows[row], file=sys.stderr)
    return {
        "rows": len(planted.rows), "seconds": round(seconds, 2), "score": found.score, "checks": checks,
        "split": kept_together(planted, found.groups.tolist()),
    }  # fmt: skip


def kept_together(planted: Planted, groups: list[int]) -> dict[str, dict[str, int]]:
    """By kind, how many of the rows that repeat another have to stay on its side of a split."""
    kept: dict[str, dict[str, int]] = {}
    for row, source in planted.sources.items():
        counts = kept.setdefault(planted.kinds[row], {"planted": 0, "together": 0})
        counts["planted"] += 1
        counts["together"] += groups[row] == groups[source]
    return kept


def named_in_clean(planted: Planted) -> dict[str, set[int]]:
    """By check, the rows that it names where nothing was planted; numbered as in `planted`."""
    places = [row for row, kind in enumerate(planted.kinds) if not kind]
    rows = [planted.rows[row] for row in places]
    found = audit(table_of_rows(rows, "train"), table_of_rows(planted.test, "test"))
    return {finding.check: {places[origin.line] for origin in finding.rows} for finding in found.findings}


def show(result: dict[str, Any]) -> None:
    for check, figures in result["checks"].items():
        print(f"{check:18} {'ok ' if figures['reached'] else 'NO '} {figures}")
    print({key: value for key, value in result.items() if key != "checks"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=100, help="defects of each kind")
    parser.add_argument("--name", help="writes the result into bench/results/planted-NAME.json")
    parser.add_argument("--show", nargs="+", default=(), choices=FLOORS, metavar="CHECK",
                        help="print what these checks missed and what they named besides")  # fmt: skip
    parser.add_argument("--clean", action="store_true", help="measure the clean rows of the files as well")
    options = parser.parse_args()

    def planted_in(rows: list[Row]) -> dict[str, Any]:
        planted = plant(unlike(rows, options.rows, options.seed), options.each, options.seed)
        result = measure(planted, options.show)
        show(result)
        return result

    rows = read(options.files)
    result = planted_in(rows)
    if options.clean:
        rows, left_out = clean_rows(rows)
        print(f"clean: {len(rows)} rows, left out {left_out}")
        result["clean"] = {"left_out": left_out, **planted_in(rows)}
    if options.name:
        RESULTS.mkdir(exist_ok=True)
        record = json.dumps(
            {"corpora": [file.stem for file in options.files], "seed": options.seed, **result}, indent=2
        )
        (RESULTS / f"planted-{options.name}.json").write_text(record + "\n")


if __name__ == "__main__":
    main()
