"""The inference process as the server starts it: its socket, its streams, its end."""

from __future__ import annotations

import json
import os
import signal
import socket as socketlib
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.unit.inference.small import make_adapter, make_model

ASK = [{"role": "user", "content": "turn on the light"}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


class Process:
    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.child = subprocess.Popen(
            [sys.executable, "-m", "residency.inference", str(socket), "--cache-tokens", "4000"],
            stdin=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self.client = httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://inference",
                                   timeout=120)  # fmt: skip

    def wait_until_it_listens(self) -> None:
        end = time.monotonic() + 400
        while not self.listens():
            assert time.monotonic() < end, "it does not listen"
            time.sleep(0.1)

    def listens(self) -> bool:
        assert self.child.poll() is None, "it ended"
        with socketlib.socket(socketlib.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def body(self, base: Path, **settings: Any) -> dict[str, Any]:
        return {"model": {"base": str(base), "adapter": None}, "messages": ASK, "temperature": 0, **settings}

    def running(self) -> int:
        return sum(one["running"] for one in self.client.get("/health").json()["bases"])


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path / "inference.sock")
    try:
        process.wait_until_it_listens()
        yield process
    finally:
        process.client.close()
        process.child.kill()
        process.child.communicate()


def test_a_life_with_a_lost_client_and_a_clean_end(process: Process, base: Path, tmp_path: Path) -> None:
    assert stat.S_IMODE(process.socket.stat().st_mode) == 0o600
    adapter = make_adapter(base, tmp_path / "adapter", seed=1, r=2)
    body = process.body(base, max_tokens=20)
    plain = process.client.post("/chat/completions", json=body).json()
    body["model"]["adapter"] = str(adapter)
    tuned = process.client.post("/chat/completions", json=body).json()
    assert plain["choices"][0]["message"] != tuned["choices"][0]["message"]

    endless = process.body(base, stream=True, max_tokens=450, logit_bias={"2": -100})
    with process.client.stream("POST", "/chat/completions", json=endless) as answer:
        lines = answer.iter_lines()
        first = json.loads(next(lines).removeprefix("data: "))
        assert first["choices"][0]["delta"]["role"] == "assistant"
        assert process.running() == 1  # the answer is read while it is decoded
    end = time.monotonic() + 30
    while process.running():
        assert time.monotonic() < end, "the row of a client that left is still decoded"
        time.sleep(0.02)

    process.child.send_signal(signal.SIGTERM)
    assert process.child.wait(60) == 0


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "residency.inference", str(tmp_path / "inference.sock")]
    assert subprocess.run(command, input=b"", check=False, timeout=500).returncode == 0
