"""A server on a socket with an empty SQLite database, no keys, and no inference process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from residency.server.api.app import build
from residency.server.api.server import Server
from residency.server.settings import Settings
from tests.unit.server.serving import client, raw, served


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", aliases=(("gpt-4o-mini*", "smollm2-135m"),))


@pytest.fixture
def app(settings: Settings):  # type: ignore[no-untyped-def]
    return build(settings)


@pytest.fixture
def server(app) -> Server:  # type: ignore[no-untyped-def]
    found: Server = app.state.server
    return found


@pytest.fixture
def url(app) -> Iterator[str]:  # type: ignore[no-untyped-def]
    with served(app) as address:
        yield address


@pytest.fixture
def openai(url: str) -> Iterator[OpenAI]:
    with client(url) as made:
        yield made


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with raw(url) as made:
        yield made


@pytest.fixture
def rows() -> bytes:
    """A training file that every check passes."""
    messages = [{"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "2"}]
    return 10 * (json.dumps({"messages": messages}).encode() + b"\n")
