"""`residency serve` as a user starts it."""

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
from openai import OpenAI

MODULES = {"api": "residency.server.api", "worker": "residency.server.worker", "inference": "residency.inference"}
PATIENCE_SECONDS = 500.0


class Server:
    def __init__(self, home: Path, *arguments: str, before: str = "") -> None:
        """`before` is Python that the command runs first."""
        self.file = home.parent / "serve.log"
        self.file.touch()
        self.before = self.file.stat().st_size
        command = before + "import sys; from residency.cli import main; sys.exit(main())"
        with self.file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", command, "serve", "--home", str(home), "--port", "0", *arguments],
                stdin=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip

    def log(self) -> str:
        """What this server has said, and none before it."""
        return self.file.read_bytes()[self.before :].decode()

    def url(self) -> str:
        """Where it answers; this waits until it does."""
        wait_until(lambda: "base_url" in self.log() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log()
        url = re.findall(r"base_url (\S+),", self.log())[-1]
        wait_until(lambda: answers(url.removesuffix("/v1") + "/healthz"))
        return url

    def client(self, **options: Any) -> OpenAI:
        """As users make it."""
        return OpenAI(base_url=self.url(), api_key="any", timeout=120, **options)

    def wait_for_models(self) -> None:
        """Until chats are answered, too."""
        ready = self.url().removesuffix("/v1") + "/readyz"
        wait_until(lambda: httpx.get(ready, timeout=60).json()["inference"] == "ok")

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
def serve(home: Path, *arguments: str, before: str = "") -> Iterator[Server]:
    server = Server(home, *arguments, before=before)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def wait_until(condition: Callable[[], Any], *, patience: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)


def answers(address: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(address, timeout=60).is_success
    return False


def steps(client: OpenAI, job: str) -> list[int]:
    """Those that the job's events tell, newest first."""
    events = client.fine_tuning.jobs.list_events(job, limit=1000)
    return [event.data["step"] for event in events if event.type == "metrics"]  # type: ignore[index]
