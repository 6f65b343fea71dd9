"""`residency convert`: the same rows in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from residency.cli.options import AsJson
from residency.cli.output import print_answer, print_line
from residency.errors import ConfigError
from residency.wording import counted

EPILOG = """
Examples

    residency convert alpaca.json chat.jsonl --to chat

    residency convert chat.jsonl pairs.jsonl --to prompt_completion
"""


def add_to(app: typer.Typer) -> None:
    app.command("convert", epilog=EPILOG)(convert)


def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="A data file or `hub:org/name`.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The JSONL file to write.")],
    to: Annotated[
        Literal["chat", "prompt_completion", "instruction", "sharegpt"], typer.Option("--to", help="The new format.")
    ],
    as_json: AsJson = False,
) -> None:
    """Write the rows in another format. A row that the format cannot hold is named and nothing is written (exit 3)."""
    from residency.data.convert import convert_file

    if out.suffix != ".jsonl":
        raise ConfigError(f"{out}: rows are written as JSONL", param="OUT", hint="name a file that ends in .jsonl")
    if out.exists():
        raise ConfigError(f"{out} exists already", param="OUT", hint="name another file")
    rows = convert_file(source, out, to)
    if as_json:
        print_answer({"out": str(out), "rows": rows, "format": to})
        return
    print_line(f"{out}: {counted(rows, 'row')} as {to}")
