"""`residency report`: a run's report, made again from its folder."""

from __future__ import annotations

import typer

from residency.cli.options import RUNS, AsJson, RunName, Runs, open_run
from residency.cli.output import print_answer, print_line


def add_to(app: typer.Typer) -> None:
    app.command("report", epilog="Example: `residency report smart-home`")(report)


def report(run_name: RunName, runs: Runs = RUNS, as_json: AsJson = False) -> None:
    """Write report.html and report.md again, and print the path of the page.

    A run that failed or has not finished gets one too.
    """
    from residency.evals.report import write_report

    path = write_report(open_run(run_name, runs))
    if as_json:
        print_answer({"report": str(path)})
    else:
        print_line(str(path))
