"""`residency eval`: a run's untuned and tuned model on a test."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from residency.cli.options import RUNS, AsJson, RunName, Runs, open_run
from residency.cli.output import comparison_table, print_answer, print_line, print_table
from residency.errors import ConfigError, RunError
from residency.records import Answer, Comparison, RunFolder

EPILOG = """
Examples

    residency eval smart-home

    residency eval smart-home other-house.jsonl --name other-house
"""
SHOWN = 5
WIDTH = 100


def add_to(app: typer.Typer) -> None:
    app.command("eval", epilog=EPILOG)(evaluate)


def evaluate(
    run_name: RunName,
    test_file: Annotated[
        str | None, typer.Argument(metavar="TEST_FILE", help="Rows to answer; without it, what was measured is shown.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="The test's name; default: the file's.")] = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Grade the answers of the untuned and the tuned model; list wins and losses.

    Results are written into the run's folder, and its report is renewed.
    """
    from residency.evals.findings import read_findings

    run = open_run(run_name, runs)
    comparisons = read_findings(run).comparisons
    if test_file:
        from residency import pipeline

        test = free_name(run, name or Path(test_file).stem)
        comparisons = pipeline.evaluate(run, test_file, name=test)
    if not comparisons:
        raise RunError(f"{run.path} has no measured test", hint=f"name one: residency eval {run_name} test.jsonl")
    show(run, comparisons, as_json)


def free_name(run: RunFolder, name: str) -> str:
    """A result is never overwritten. Raises ConfigError for a name that cannot be a file's."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", name):
        raise ConfigError(
            f"--name: {name!r} must be letters, digits, '_' and '-', the first a letter or digit",
            hint="for example --name other-house",
            param="--name",
        )
    if any((run / "eval").glob(f"{name}.*.json")):
        raise ConfigError(
            f"the run has a test named {name} already", hint="give this one another name with --name", param="--name"
        )
    return name


def show(run: RunFolder, comparisons: list[Comparison], as_json: bool) -> None:
    if as_json:
        print_answer({
            "run": str(run.path),
            "report": str(run / "report.html"),
            "comparisons": [one.model_dump(mode="json") for one in comparisons],
        })  # fmt: skip
        return
    print_table(comparison_table(comparisons))
    answers = {(result.test, result.model): result.answers for result in run.eval_results()}
    for one in comparisons:
        if one.p_value is not None:
            before, after = answers[one.test, one.baseline], answers[one.test, "tuned"]
            print_rows(f"won by {one.grader} against {one.baseline} on {one.test}", one.wins, before, after)
            print_rows(f"lost by {one.grader} against {one.baseline} on {one.test}", one.losses, before, after)
    print_line(f"\nreport: {run / 'report.html'}")


def print_rows(title: str, rows: list[int], before: list[Answer], after: list[Answer]) -> None:
    first = f", the first {SHOWN}" if len(rows) > SHOWN else ""
    print_line(f"\n{title}: {len(rows)}{first}")
    for row in rows[:SHOWN]:
        old, new = before[row], after[row]
        print_line(f"  row {row + 1}: {one_line(old.prompt)}")
        for label, text in (("reference", old.reference), ("before", old.output), ("after", new.output)):
            print_line(f"    {label:9}  {one_line(text)}")


def one_line(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= WIDTH else f"{flat[: WIDTH - 3]}..."
