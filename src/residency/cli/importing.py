"""`residency import`: a run file out of another tool's config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from residency.cli.options import AsJson
from residency.cli.output import print_answer, print_line
from residency.errors import ConfigError

EPILOG = """
Examples

    residency import axolotl.yaml

    residency import llama_factory.yaml imported/run.yaml
"""
TITLES = {
    "carried": "Carried over",
    "no_effect": "Without effect on the result",
    "left_out": "Not here",
    "differs": "Different here",
    "to_do": "To do before the run",
}
"""What matters most stands last, where a terminal ends."""


def add_to(app: typer.Typer) -> None:
    app.command("import", epilog=EPILOG)(import_)


def import_(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A training config of Axolotl or LLaMA-Factory.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The run file to write.")] = Path("run.yaml"),
    as_json: AsJson = False,
) -> None:
    """Write a run file of the same meaning, and say what became of every key.

    What cannot mean the same is refused with all reasons, and nothing is written (exit 2).
    """
    from residency import durable
    from residency.importers.read import as_yaml, import_config

    if out.exists():
        raise ConfigError(f"{out} exists already, and nothing is overwritten", param="OUT", hint="name another file")
    imported = import_config(config, out)
    with durable.disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        durable.write_text(out, as_yaml(imported, config.name))
    if as_json:
        notes = [note._asdict() for note in imported.notes]
        print_answer({"out": str(out), "tool": imported.tool, "run": imported.run, "notes": notes})
        return
    for kind, title in TITLES.items():
        by_text: dict[str, list[str]] = {}
        for note in imported.notes:
            if note.kind == kind:
                by_text.setdefault(note.text, []).append(note.key)
        if by_text:
            print_line(f"{title}:")
        for text, keys in by_text.items():
            print_line(f"  {', '.join(keys)}: {text}")
    print_line(f"{out}: imported from {imported.tool}")
