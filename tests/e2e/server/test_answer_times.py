"""An answer leaves the server when it is made."""

from __future__ import annotations

import time
from pathlib import Path

import httpx

from tests.e2e.server.serving import serve

HELD_BACK_SECONDS = 0.04
"""How long a kernel keeps the second part of an answer where it waits for the first one's receipt."""


def test_no_answer_is_held_back(tmp_path: Path) -> None:
    with (
        serve(tmp_path / "home", "--conformance-fixtures") as server,
        httpx.Client(base_url=server.url(), trust_env=False) as http,
    ):
        assert min(seconds_of(http) for _ in range(30)) < HELD_BACK_SECONDS * 0.75


def seconds_of(http: httpx.Client) -> float:
    began = time.perf_counter()
    http.get("/fine_tuning/jobs").raise_for_status()
    return time.perf_counter() - began
