"""`residency runs`: what is in the folder of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from residency.cli.options import RUNS, AsJson, RunName, Runs, open_run
from residency.cli.output import comparison_table, print_answer, print_line, print_table, table
from residency.errors import RunError
from residency.records import RunFolder
from residency.run_folders import list_runs

if TYPE_CHECKING:
    from residency.evals.findings import Findings


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(invoke_without_command=True, help="List the runs, or show one.")
    group.callback()(list_unless_told)
    group.command("list")(list_all)
    group.command("show", epilog="Example: `residency runs show smart-home`")(show)
    app.add_typer(group, name="runs")


def list_unless_told(context: typer.Context, runs: Runs = RUNS, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        list_all(runs, as_json)


def list_all(runs: Runs = RUNS, as_json: AsJson = False) -> None:
    """List all runs: how each ended and what it gained."""
    found = [overview(run) for run in list_runs(runs)]
    if as_json:
        print_answer({"runs": found})
    elif not found:
        print_line(f"no runs in {runs}")
    else:
        print_table(
            table(("run", "status", "result"), [(run["name"], run["status"], run["headline"]) for run in found])
        )


def overview(run: RunFolder) -> dict[str, Any]:
    """One damaged run must not hide the others."""
    from residency.evals.findings import read_findings

    try:
        findings = read_findings(run)
    except RunError as error:
        return place(run) | {"status": "damaged", "headline": error.message}
    return place(run) | {"status": findings.status, "headline": headline(findings)}


def place(run: RunFolder) -> dict[str, Any]:
    return {"name": run.path.name, "path": str(run.path)}


def headline(findings: Findings) -> str:
    return str(findings.error["message"]) if findings.error else findings.headline


def show(run_name: RunName, runs: Runs = RUNS, as_json: AsJson = False) -> None:
    """Show one run: how it ended, what it gained, what was decided and warned of."""
    from residency.evals.findings import read_findings

    run = open_run(run_name, runs)
    findings = read_findings(run)
    if as_json:
        print_answer(as_record(run, findings))
        return
    print_line(f"{run.path}: {findings.status}")
    print_line(headline(findings))
    if findings.support:
        print_line(findings.support)
    if findings.comparisons:
        print_line()
        print_table(comparison_table(findings.comparisons))
    if reasons := [(one.path, one.value, one.reason) for one in findings.settings if one.reason]:
        print_line()
        print_table(table(("setting", "value", "why"), reasons))
    for warning in findings.warnings:
        print_line(f"warning: {warning}")


def as_record(run: RunFolder, findings: Findings) -> dict[str, Any]:
    return place(run) | {
        "status": findings.status,
        "headline": headline(findings),
        "error": findings.error,
        "summary": findings.summary.model_dump(mode="json") if findings.summary else None,
        "comparisons": [one.model_dump(mode="json") for one in findings.comparisons],
        "settings": {one.path: {"value": one.value, "reason": one.reason} for one in findings.settings},
        "warnings": findings.warnings,
        "events": [event.model_dump(mode="json") for event in findings.events],
    }
