"""`residency select`: a part of the data that covers as much as the whole, or the user's test prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from residency import durable
from residency.cli.options import AsJson
from residency.cli.output import print_answer, print_line
from residency.errors import ConfigError
from residency.wording import counted

EPILOG = """
Examples

    residency select train.jsonl --n 500

    residency select train.jsonl --n 500 --towards test.jsonl --out small.jsonl
"""
HONESTY = (
    "Choosing rows rarely beats as many random ones by much: use it where the number of rows is limited, and where it "
    "matters train on both."
)


def add_to(app: typer.Typer) -> None:
    app.command("select", epilog=EPILOG)(select)


def select(
    source: Annotated[str, typer.Argument(metavar="DATA", help="A data file or `hub:org/name`.")],
    count: Annotated[int, typer.Option("--n", min=1, help="How many rows to choose.")],
    towards: Annotated[
        str | None, typer.Option("--towards", help="Rows whose prompts are to be covered; else the data's own.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The JSONL file to write; else DATA with -selected in its name.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Decides between equals.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Choose a diverse part of the data by what the prompts are about, and write it as JSONL, rows unchanged.

    With `--towards`, each of its prompts in turn takes the nearest row that is left. Give it a development set: what is
    chosen towards the test rows makes the test result look better than it is.
    """
    from residency.data.audit.clusters import subjects
    from residency.data.audit.coverage import select_rows
    from residency.data.audit.embeddings import load_embedder
    from residency.data.audit.table import table_of
    from residency.data.sources import read_rows
    from residency.data.validate import load_examples

    target = out or default_target(source)
    if target.exists():
        raise ConfigError(f"{target} exists already", param="--out", hint="name another file with --out")
    embedder = load_embedder()
    table = table_of(load_examples(source).examples)
    asked = subjects(table_of(load_examples(towards, purpose="eval").examples)) if towards else None
    found = select_rows(embedder.embed(subjects(table)), count, embedder.embed(asked) if asked else None, seed)
    kept = set(found.rows.tolist())
    rows = (row.value for number, row in enumerate(read_rows(source)) if number in kept)
    durable.write_text(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    if as_json:
        print_answer({"out": str(target), "rows": len(kept), "of": len(table), "coverage": found.coverage,
                      "random_coverage": found.random_coverage})  # fmt: skip
        return
    what = f"the prompts of {towards}" if towards else "the data's prompts"
    more = f"; {count:,} were asked for" if count > len(table) else ""
    print_line(f"{target}: {len(kept):,} of {counted(len(table), 'row')}{more}")
    print_line(f"mean cosine of {what} to the nearest chosen row: {found.coverage:.3f}; "
               f"of as many random rows: {found.random_coverage:.3f}")  # fmt: skip
    print_line(HONESTY)


def default_target(source: str) -> Path:
    name = source.removeprefix("hub:").replace(":", "-")
    path = Path(name.split("/")[-1]) if source.startswith("hub:") else Path(name)
    return path.with_name(f"{path.stem}-selected.jsonl")
