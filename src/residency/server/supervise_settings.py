"""How the processes of a server get its settings: `serve.json` below the home folder, readable by its owner alone."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import TypeAdapter

from residency import durable
from residency.server.settings import Settings

SETTINGS = TypeAdapter(Settings)
FILE = "serve.json"


def write_settings(settings: Settings) -> Path:
    """A database's address may hold a password, so neither a command line nor the environment carries it."""
    path = settings.home.absolute() / FILE
    aside = path.with_suffix(".part")
    with durable.disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.unlink(missing_ok=True)
        with os.fdopen(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(SETTINGS.dump_json(settings, indent=2))
        aside.replace(path)
    return path


def read_settings(home: Path) -> Settings:
    return SETTINGS.validate_json((home / FILE).read_bytes())
