"""What the API process does with a connection: it sends each answer when it is made, and bounds what it is sent."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.server.serving import serve

HELD_BACK_SECONDS = 0.04
"""How long a kernel keeps the second part of an answer where it waits for the first one's receipt."""
MOST_HEAD_BYTES = 64 * 1024


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve(tmp_path_factory.mktemp("connections") / "home", "--conformance-fixtures") as server:
        yield server.url()


def test_no_answer_is_held_back(url: str) -> None:
    with httpx.Client(base_url=url, trust_env=False) as http:
        assert min(seconds_of(http) for _ in range(30)) < HELD_BACK_SECONDS * 0.75


def seconds_of(http: httpx.Client) -> float:
    began = time.perf_counter()
    http.get("/fine_tuning/jobs").raise_for_status()
    return time.perf_counter() - began


def test_a_head_without_end_is_refused(url: str) -> None:
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), timeout=60) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + b"a" * MOST_HEAD_BYTES)
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
    assert httpx.get(url.removesuffix("/v1") + "/healthz", trust_env=False).is_success
