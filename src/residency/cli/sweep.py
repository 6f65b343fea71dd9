"""`residency sweep`: many settings tried, and the best one's run file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from residency.cli.live import live_view
from residency.cli.options import AsJson
from residency.cli.output import listener, print_answer, print_line, print_table, table
from residency.cli.train import sigterm_as_ctrl_c
from residency.config.sweep import load_sweep
from residency.errors import Interrupted
from residency.records import SweepRecord

EPILOG = """
Examples

    residency sweep sweep.yaml

where sweep.yaml names a run file and what to vary:

    run: run.yaml

    fields: {adapter.rank: [8, 16, 32], train.learning_rate: {low: 1e-4, high: 4e-3, log: true}}

    trials: 16
"""


def add_to(app: typer.Typer) -> None:
    app.command("sweep", epilog=EPILOG)(sweep)


def sweep(
    sweep_file: Annotated[Path, typer.Argument(metavar="SWEEP_YAML", help="The sweep file.")],
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where the sweep stands; sweeps/NAME of the file without it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Try settings that Optuna draws, side by side where they share a base, and write the best one's run file.

    Interrupted, it goes on with the same command. Several processes may work on one folder: start one for each GPU,
    with CUDA_VISIBLE_DEVICES set. Settings are compared by their held-out loss; the test rows are not looked at.
    """
    asked = load_sweep(sweep_file)
    from residency.search.sweep import run_sweep

    place = folder or Path("sweeps") / sweep_file.stem
    try:
        with sigterm_as_ctrl_c(), live_view(listener(as_json), place) as hear:
            found = run_sweep(asked, place, hear)
    except KeyboardInterrupt:
        raise Interrupted("interrupted", hint="go on with the same command") from None
    if as_json:
        print_answer(found.model_dump(mode="json") | {"folder": str(place), "report": str(place / "report.html")})
        return
    show(found, place)


def show(found: SweepRecord, place: Path) -> None:
    ranked = sorted(found.trials, key=lambda one: (one.state != "finished", one.loss is None, one.loss or 0.0))
    rows = [
        (one.number, *(one.values[name] for name in found.fields), "" if one.loss is None else f"{one.loss:.4f}",
         f"{one.steps} of {one.total_steps}", one.why or one.state)
        for one in ranked
    ]  # fmt: skip
    print_line()
    print_table(table(("trial", *found.fields, "loss", "steps", "how it ended"), rows))
    if found.best is not None:
        print_line(f"\nbest: trial {found.best}; its run file is {place / 'best.yaml'}")
    print_line(f"report: {place / 'report.html'}")
