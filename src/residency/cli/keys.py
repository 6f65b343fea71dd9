"""`residency keys`: who may use a server, and for what."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from residency.cli.options import AsJson
from residency.cli.output import print_answer, print_line, print_table, table
from residency.errors import ConfigError

if TYPE_CHECKING:
    from residency.server.database.connect import Database
    from residency.server.database.tables import Key

Home: TypeAlias = Annotated[Path, typer.Option("--home", help="The server's folder.")]
DatabaseUrl: TypeAlias = Annotated[
    str | None, typer.Option("--database", metavar="URL", help="The server's database, where it is not in the folder.")
]
HOME = Path("residency-home")
EPILOG = """
From the first key on, every request needs one. Scopes: `train` (files, jobs, evals), `infer` (chat, batches), `read`
(everything that only looks), `admin` (all of them, and sharing checkpoints between projects).

Example: `residency keys create laptop --project hospital --scope read`
"""


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Make, list and revoke the API keys of a server.")
    group.command("create", epilog=EPILOG)(create)
    group.command("list")(show)
    group.command("revoke", epilog="Example: `residency keys revoke key_8fKx`")(revoke)
    app.add_typer(group, name="keys")


def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")] = "key",
    project: Annotated[
        str, typer.Option("--project", help="Files, jobs and models belong to a project; made if it is not there.")
    ] = "default",
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="train, infer, read or admin; may be repeated.")
    ] = None,
    home: Home = HOME,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and show it, once."""
    from residency.server.keys import USUAL, create_key

    with opened(home, database, new=True) as found, found.write() as session:
        row, secret = create_key(session, name, project, scope or USUAL)
    if as_json:
        print_answer(record(row) | {"key": secret})
        return
    print_line(secret)
    print_line(f"id {row.id}, project {project} ({row.project_id}), scopes {', '.join(row.scopes)}")
    print_line("It is not shown again.")


def show(home: Home = HOME, database: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """List the keys; the keys themselves are not stored."""
    from sqlalchemy import select

    from residency.server.database.tables import Key

    with opened(home, database) as found, found.read() as session:
        rows = session.scalars(select(Key).order_by(Key.seq)).all()
    if as_json:
        print_answer({"keys": [record(row) for row in rows]})
        return
    lines = [(row.id, row.name, row.project_id, " ".join(row.scopes), day(row.created_at),
              day(row.revoked_at) if row.revoked_at else "") for row in rows]  # fmt: skip
    print_table(table(("id", "name", "project", "scopes", "made", "revoked"), lines))


def revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `residency keys list` shows it.")],
    home: Home = HOME,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a key: its next request is refused."""
    from residency.server.keys import revoke_key

    with opened(home, database) as found, found.write() as session:
        row = revoke_key(session, key)
    if as_json:
        print_answer(record(row))
    else:
        print_line(f"{row.id} is revoked")


@contextmanager
def opened(home: Path, database: str | None, *, new: bool = False) -> Iterator[Database]:
    """With `new` the folder is made where there is none.

    Raises ConfigError where the extra `server` is not installed, and where the folder has no database.
    """
    from residency.server.extra import require_server_extra

    require_server_extra()
    from residency.server.database.connect import open_database
    from residency.server.settings import Settings

    settings = Settings(home=home, database=database)
    if database is None and new:
        home.mkdir(parents=True, exist_ok=True)
    elif database is None and not settings.database_file.exists():
        raise ConfigError(f"{home} is no server's folder: it has no {settings.database_file.name}", param="--home",
                          hint="name it with --home, or make a key with `residency keys create`")  # fmt: skip
    found = open_database(settings.database_url)
    try:
        yield found
    finally:
        found.close()


def record(row: Key) -> dict[str, object]:
    return {"id": row.id, "name": row.name, "project": row.project_id, "scopes": row.scopes,
            "created_at": row.created_at, "revoked_at": row.revoked_at}  # fmt: skip


def day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
