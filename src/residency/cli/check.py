"""`residency check`: what is wrong with the data, before anything is trained."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residency.cli.options import AsJson, Overrides
from residency.cli.output import print_answer, print_line
from residency.config.load import load_run, parse_run
from residency.config.model import RunConfig
from residency.errors import ConfigError

if TYPE_CHECKING:
    from residency.stages.survey import CheckResult

EPILOG = """
Examples

    residency check run.yaml

    residency check train.jsonl

    residency check train.jsonl --model smollm2-135m
"""


def add_to(app: typer.Typer) -> None:
    app.command("check", epilog=EPILOG)(check)


def check(
    source: Annotated[
        str, typer.Argument(metavar="DATA_OR_RUN_YAML", help="A data file or `hub:org/name`, or a run file.")
    ],
    model: Annotated[
        str | None, typer.Option("--model", help="Also count tokens and render a row with this model's template.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Name every row that cannot be used, with file, line and reason (exit 3); else show what the data are.

    One row is shown as the model sees it, with the text that carries loss between >>> and <<<.
    """
    config = run_config(source, model, overrides or [])
    if config is None:
        show_rows(source, as_json)
        return
    from residency import pipeline

    show(source, pipeline.check(config), as_json)


def run_config(source: str, model: str | None, overrides: list[str]) -> RunConfig | None:
    """Null where only a data file is named: nothing of a run is known then."""
    if Path(source).suffix in (".yaml", ".yml"):
        return load_run(Path(source), [*overrides, *([f"model.id={model}"] if model else [])])
    if overrides:
        raise ConfigError("--set: changes a run file, and none is named", param="--set", hint="name a run file")
    if model is None:
        return None
    return parse_run({"model": {"id": model}, "data": {"train": source, "eval": None}}, source="--model")


def show_rows(source: str, as_json: bool) -> None:
    from residency.data.validate import load_examples

    found = load_examples(source)
    if as_json:
        print_answer({
            "source": source,
            "format": found.format,
            "format_reason": found.format_reason,
            "rows": {"read": found.rows_read},
        })  # fmt: skip
        return
    print_line(f"{source}: all {found.rows_read:,} rows can be used")
    print_line(f"format: {found.format}; {found.format_reason}")
    print_line("tokens: name a model with --model to count them and to see a row as it sees it")


def show(source: str, found: CheckResult, as_json: bool) -> None:
    if as_json:
        record: dict[str, Any] = asdict(found)
        print_answer({"source": source, **record})
        return
    tokens = found.tokens
    print_line(f"{source}: all rows can be used")
    print_line(f"format: {found.format}; {found.format_reason}")
    print_line("rows:   " + ", ".join(f"{count:,} {name}" for name, count in found.rows.items()))
    print_line(
        f"tokens: {tokens['total']:,} in the training rows, {tokens['trained']:,} of them trained; a row has "
        f"{tokens['p50']:,.0f} (median), {tokens['p99']:,.0f} (99 %), {tokens['longest']:,} (longest)"
    )
    if found.over_long:
        print_line(f"warning: {found.over_long:,} training rows are too long; data.over_long decides about them")
    print_line(f"\n{found.example}")
