"""`residency serve` as a user starts it, and the official client while its processes are killed one after the other."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from openai import OpenAI

from tests.e2e.tiny import make_model_folder, rows
from tests.integration.server.rig import jsonl

MODULES = {"api": "residency.server.api", "worker": "residency.server.worker", "inference": "residency.inference"}
PATIENCE_SECONDS = 500.0


class Server:
    def __init__(self, home: Path, *arguments: str) -> None:
        self.file = home.parent / "serve.log"
        self.file.touch()
        self.before = self.file.stat().st_size
        command = "import sys; from residency.cli import main; sys.exit(main())"
        with self.file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", command, "serve", "--home", str(home), "--port", "0", *arguments],
                stdin=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip

    def log(self) -> str:
        """What this server has said, and none before it."""
        return self.file.read_bytes()[self.before :].decode()

    def client(self) -> OpenAI:
        """As users make it; it waits until the server says where it is."""
        wait_until(lambda: "base_url" in self.log() or self.process.poll() is not None)
        url = re.findall(r"base_url (\S+),", self.log())[-1]
        return OpenAI(base_url=url, api_key="any", timeout=120)

    def child(self, name: str) -> psutil.Process | None:
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error):  # it may end while it is looked at
                if MODULES[name] in child.cmdline():
                    return child
        return None

    def kill(self, name: str) -> None:
        """And waits until another has taken its place."""
        before = self.child(name)
        assert before is not None
        before.kill()
        wait_until(lambda: (now := self.child(name)) is not None and now.pid != before.pid)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)


@contextmanager
def serve(home: Path, *arguments: str) -> Iterator[Server]:
    server = Server(home, *arguments)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)


def steps(client: OpenAI, job: str) -> list[int]:
    events = client.fine_tuning.jobs.list_events(job, limit=1000)
    return [event.data["step"] for event in events if event.type == "metrics"]  # type: ignore[index]


@pytest.mark.timeout(1200)
@pytest.mark.slow
def test_a_job_outlives_every_process_of_its_server(tmp_path: Path) -> None:
    alias = f"gpt-4o-mini*={make_model_folder(tmp_path / 'model')}"
    home = tmp_path / "home"
    with serve(home, "--alias", alias) as server:
        client = server.client()
        file = client.files.create(file=("train.jsonl", jsonl(rows(30))), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model="gpt-4o-mini-2024-07-18", training_file=file.id, suffix="colors",
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 20, "batch_size": 2}}},
        ).id  # fmt: skip
        wait_until(lambda: len(steps(client, job)) > 20)
        for name in ("worker", "api", "inference"):
            server.kill(name)
        wait_until(lambda: len(steps(client, job)) > 60)
        assert server.stop(signal.SIGINT) == 0
        assert "server    stopped" in server.log()
        assert (home / "runs" / job / "error.json").exists(), "the trainer was stopped, and not only forgotten"

    with serve(home, "--alias", alias) as server:
        client = server.client()
        wait_until(lambda: client.fine_tuning.jobs.retrieve(job).status in ("succeeded", "failed", "cancelled"))
        done = client.fine_tuning.jobs.retrieve(job)
        assert done.status == "succeeded", done.error
        assert steps(client, job) == list(range(300, 0, -1))
        names = [one.fine_tuned_model_checkpoint for one in client.fine_tuning.jobs.checkpoints.list(job)]
        assert names[0] == done.fine_tuned_model
        wait_until(lambda: httpx.get(str(client.base_url.join("/readyz")), timeout=60).json()["inference"] == "ok")
        for name in names:
            answer = client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": "red 77"}], temperature=0, max_tokens=8
            )
            assert answer.choices[0].message.content == "fire"
