"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from residency.records import RunFolder
from residency.run_folders import find_run

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Runs: TypeAlias = Annotated[Path, typer.Option("--runs", help="The folder that holds the runs.")]
RunName: TypeAlias = Annotated[str, typer.Argument(metavar="RUN", help="A run's name, or the path of its folder.")]
RunFile: TypeAlias = Annotated[Path, typer.Argument(metavar="RUN_YAML", help="The run file.")]
Overrides: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a value of the run file; may be repeated."),
]

RUNS = Path("runs")


def open_run(name: str, runs: Path) -> RunFolder:
    """The run called `name` below `runs`, or the folder of that path. Raises RunError."""
    return find_run(runs, name)
