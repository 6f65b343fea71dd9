"""The server's libraries are an extra: they are named in one sentence where they are missing."""

from __future__ import annotations

from importlib.util import find_spec

from residency.errors import ConfigError

LIBRARIES = ("alembic", "fastapi", "fsspec", "multipart", "prometheus_client", "psycopg", "sqlalchemy", "uvicorn")


def require_server_extra() -> None:
    """Raises ConfigError."""
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"the server needs {', '.join(missing)}", code="extra_missing",
                          hint="pip install 'residency[server]'")  # fmt: skip
