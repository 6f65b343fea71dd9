"""`residency models`: what is on this machine, and fetching what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from residency.cli.options import AsJson
from residency.cli.output import print_answer, print_line, print_table, table
from residency.config.model import Model


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="List models on this machine, or fetch one.")
    group.command("list")(show)
    group.command("fetch", epilog="Example: `residency models fetch Qwen/Qwen3-0.6B`")(fetch)
    app.add_typer(group, name="models")


def show(as_json: AsJson = False) -> None:
    """List the starter model and what the Hub's cache holds; needs no network."""
    found = [starter(), *hub_models()]
    if as_json:
        print_answer({"models": found})
        return
    rows = [
        (
            model["id"],
            f"{model['size_bytes'] / 1e9:.2f} GB" if model["folder"] else "not fetched",
            model["folder"] or "",
        )
        for model in found
    ]
    print_table(table(("model", "size", "folder"), rows, right=(1,)))


def starter() -> dict[str, Any]:
    from residency.models.starter import STARTER_ID, starter_path

    folder = starter_path()
    size = sum(file.stat().st_size for file in folder.iterdir()) if folder else 0
    return {"id": STARTER_ID, "folder": str(folder) if folder else None, "size_bytes": size}


def hub_models() -> list[dict[str, Any]]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    return [
        {"id": repository.repo_id, "folder": str(repository.repo_path), "size_bytes": repository.size_on_disk}
        for repository in sorted(repositories, key=lambda one: str(one.repo_id))
        if repository.repo_type == "model"
    ]


def fetch(
    model_id: Annotated[
        str, typer.Argument(metavar="MODEL", help="`smollm2-135m`, or a Hub id such as `Qwen/Qwen3-4B`.")
    ] = "smollm2-135m",
    revision: Annotated[str | None, typer.Option("--revision", help="The Hub's branch, tag or commit.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a model once; after that no network is needed for it."""
    from residency.models.load import locate

    folder: Path = locate(Model(id=model_id, revision=revision))
    if as_json:
        print_answer({"id": model_id, "folder": str(folder)})
    else:
        print_line(str(folder))
