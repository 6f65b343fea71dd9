"""One server for all tests here, and a project of its own for each of them; there is no inference process."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from openai import OpenAI

from residency.server.api.app import build
from residency.server.api.server import Server
from residency.server.keys import create_key
from residency.server.settings import Settings
from tests.unit.server.serving import client, raw, served

ALL = ("train", "infer", "read", "admin")


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    home = tmp_path_factory.mktemp("server")
    return build(Settings(home=Path(home), aliases=(("gpt-4o-mini*", "smollm2-135m"),)))


@pytest.fixture(scope="session")
def url(app: FastAPI) -> Iterator[str]:
    with served(app) as address:
        yield address


@pytest.fixture
def server(app: FastAPI) -> Server:
    found: Server = app.state.server
    return found


def new_key(server: Server, *scopes: str, project: str | None = None) -> str:
    with server.database.write() as session:
        return create_key(session, "test", project or secrets.token_hex(8), scopes or ALL)[1]


@pytest.fixture
def key(server: Server) -> str:
    """Of a project that nobody else has."""
    return new_key(server)


@pytest.fixture
def openai(url: str, key: str) -> Iterator[OpenAI]:
    with client(url, key) as made:
        yield made


@pytest.fixture
def http(url: str, key: str) -> Iterator[httpx.Client]:
    with raw(url, key) as made:
        yield made


@pytest.fixture
def rows() -> bytes:
    """A training file that every check passes."""
    messages = [{"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "2"}]
    return 10 * (json.dumps({"messages": messages}).encode() + b"\n")
