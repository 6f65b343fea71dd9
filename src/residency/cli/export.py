"""`residency export`: a run's result, to be used elsewhere."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from residency.cli.options import RUNS, AsJson, RunName, Runs, open_run
from residency.cli.output import print_answer, print_line

EPILOG = """
Examples

    residency export smart-home ./smart-home-adapter

    residency export smart-home ./smart-home-model --merged
"""


def add_to(app: typer.Typer) -> None:
    app.command("export", epilog=EPILOG)(export)


def export(
    run_name: RunName,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that does not exist yet.")],
    merged: Annotated[
        bool, typer.Option("--merged", help="Put the adapter into the base: a model that stands alone.")
    ] = False,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Write the adapter (PEFT's format), or with --merged a plain transformers model.

    A merged model is loaded again and must give the adapter's logits before success is reported.
    """
    run = open_run(run_name, runs)
    from residency.exports.merge import export_adapter, export_merged
    from residency.stages.prepare import read_resolved

    resolved, _ = read_resolved(run)
    done = export_merged(run, resolved, out) if merged else export_adapter(run, resolved, out)
    if as_json:
        print_answer(asdict(done) | {"folder": str(done.folder)})
        return
    for note in done.notes:
        print_line(note)
    print_line(f"{done.kind}: {done.folder}")
