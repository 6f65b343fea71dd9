"""One database, SQLite or PostgreSQL, brought to the newest schema when it is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from anyio import to_thread
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.orm import Session

from residency.errors import ConfigError, ResourceError

MIGRATIONS = Path(__file__).with_name("migrations")
BUSY_SECONDS = 30.0
"""How long a writer waits for another before it gives up."""
R = TypeVar("R")
MIGRATION_LOCK = 7_265_736  # any number that is ours; PostgreSQL keeps other starters waiting on it


class Database:
    """Opens sessions. `read` sees one state of the database; `write` commits whole or not at all."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.writing = engine.execution_options(writing=True)

    @contextmanager
    def read(self) -> Iterator[Session]:
        with refusals(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        with refusals(), Session(self.writing, expire_on_commit=False) as session, session.begin():
            yield session

    async def look(self, work: Callable[[Session], R]) -> R:
        """What `work` reads, which is little: a row, or a page of them.

        A reader of SQLite waits for no writer and is done within a millisecond. Handing it to a thread costs more than
        that, and under load all threads wait for one another. PostgreSQL is somewhere else, so a thread waits for it.
        """
        if self.engine.dialect.name == "sqlite":
            return self._look(work)
        return await to_thread.run_sync(self._look, work)

    def _look(self, work: Callable[[Session], R]) -> R:
        with self.read() as session:
            return work(session)

    def close(self) -> None:
        self.engine.dispose()


def open_database(url: str, *, migrate: bool = True) -> Database:
    """`sqlite:///path` or `postgresql://user@host/name`. Raises ConfigError, or ResourceError where it is not there."""
    engine = _engine(url)
    if migrate:
        with refusals(), engine.execution_options(writing=True).begin() as connection:
            upgrade(connection)
    return Database(engine)


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigError("the database's address cannot be read", param="--database", hint=EXAMPLES) from None
    match parsed.get_backend_name():
        case "postgresql":
            return create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True, pool_size=20)
        case "sqlite":
            engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
                                   pool_size=20, max_overflow=40)  # fmt: skip
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            return engine
        case other:
            raise ConfigError(f"{other} is no database the server can use", param="--database", hint=EXAMPLES)


EXAMPLES = "write sqlite:///residency.db or postgresql://user:password@host/name"


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # sqlite3 begins no transaction by itself; _begin_sqlite does
    for setting in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {setting}")


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes its lock at once: one that read first and wrote later would be refused under load."""
    writing = connection.get_execution_options().get("writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def upgrade(connection: Connection) -> None:
    """Brings the schema up to date; a second process that starts at the same time waits for the first."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextmanager
def refusals() -> Iterator[None]:
    """Turns the database's refusals into errors that say what to do."""
    try:
        yield
    except OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise ResourceError(f"the database refused: {reason}", code=_code(reason), hint=_hint(reason)) from error


def _code(reason: str) -> str:
    if "disk" in reason or "full" in reason:
        return "disk_full"
    return "database_busy" if "locked" in reason else "database_unavailable"


def _hint(reason: str) -> str:
    match _code(reason):
        case "disk_full":
            return "free some space; nothing was changed"
        case "database_busy":
            return "another program holds the database; try again"
    return "check --database, and that the database is running"
