"""How fast `residency serve` answers many clients that follow jobs and upload files.

    python bench/server_load.py [--clients 200] [--seconds 120] [--pause 1.0]

Each client has a connection of its own and a key. It sends a request, waits for its answer, and pauses for `--pause`
seconds on average (half to one and a half of it; 0 never pauses). Nine of ten requests read (a job, its events, its
checkpoints, the jobs, a file, in turn), the tenth uploads 64 KiB. The server has 40 jobs, trained by the stand-in for a
trainer before the clock starts. The clients run on the same processors, in one process; so that they measure the server
and not themselves they read no more of an answer than its status and its length.
Adds a line to bench/results/server_load.jsonl.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

RESULTS = Path(__file__).resolve().parent / "results" / "server_load.jsonl"
JOBS = 40
READ_OF_TEN = 9
UPLOAD = b'{"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]}\n' * 744
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="t.jsonl"\r\n\r\n' + UPLOAD + b"\r\n--b--\r\n"
)
TIMEOUT_SECONDS = 60
PERCENTILES = (50, 95, 99, 100)


class Load:
    """What the clients met: seconds by kind of request, and statuses."""

    def __init__(self, port: int, key: str, options: argparse.Namespace) -> None:
        self.port, self.options = port, options
        self.head = f"HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n"
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.statuses: Counter[str] = Counter()

    async def client(self, paths: list[tuple[str, str]], number: int, until: float) -> None:
        moments = random.Random(number)
        count, connection = moments.randrange(10), None
        await asyncio.sleep(moments.uniform(0, self.options.pause))
        while time.monotonic() < until:
            kind, request = "POST file", self.upload()
            if count % 10 < READ_OF_TEN:
                kind, path = moments.choice(paths)
                request = f"GET /v1{path} {self.head}\r\n".encode()
            connection = await self.timed(connection, kind, request)
            count += 1
            await asyncio.sleep(self.options.pause * moments.uniform(0.5, 1.5))
        if connection:
            connection[1].close()

    def upload(self) -> bytes:
        form = f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(FORM)}\r\n\r\n"
        return f"POST /v1/files {self.head}{form}".encode() + FORM

    async def timed(self, connection: Connection | None, kind: str, request: bytes) -> Connection | None:
        """The connection, to be used again; none where it broke."""
        began = time.perf_counter()
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                connection = connection or await asyncio.open_connection("127.0.0.1", self.port)
                self.statuses[await answer(*connection, request)] += 1
        except (OSError, EOFError) as error:
            self.statuses[type(error).__name__] += 1
            connection = None
        self.seconds[kind].append(time.perf_counter() - began)
        return connection


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> str:
    """Its status."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    assert length, "an answer of unknown length"
    await reader.readexactly(int(length[1]))
    return head.split(maxsplit=2)[1].decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--pause", type=float, default=1.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = str(Path(folder) / "home")
        said = subprocess.run(residency("keys", "create", "load", "--home", home), capture_output=True, check=True)
        key = re.search(rb"sk-residency-\S+", said.stdout)
        assert key
        log = Path(folder) / "log"
        with log.open("wb") as opened:
            serve = residency("serve", "--conformance-fixtures", "--home", home, "--port", "0")
            server = subprocess.Popen(serve, stderr=opened)
        try:
            found = measure(address(log), key[0].decode(), server.pid, options)
        finally:
            server.terminate()
            server.wait()
    print(json.dumps(found, indent=2))
    with RESULTS.open("a") as results:
        results.write(json.dumps(found) + "\n")


def residency(*words: str) -> list[str]:
    return [sys.executable, "-c", f"import sys; from residency.cli import main; sys.exit(main({list(words)!r}))"]


def address(log: Path) -> str:
    """Where the server answers; this waits until it says so."""
    while not (found := re.search(rb"base_url (\S+),", log.read_bytes())):
        time.sleep(0.1)
    return found[1].decode()


def measure(url: str, key: str, server: int, options: argparse.Namespace) -> dict[str, Any]:
    paths = prepare(url, key)
    port = httpx.URL(url).port
    assert port
    load = Load(port, key, options)
    api = api_process(server)
    began, cpu, api_cpu = time.monotonic(), time.process_time(), cpu_seconds(api)
    asyncio.run(run(load, paths, began + options.seconds))
    seconds, cpu, api_cpu = time.monotonic() - began, time.process_time() - cpu, cpu_seconds(api) - api_cpu
    reads = [one for kind, values in load.seconds.items() if kind.startswith("GET") for one in values]
    count = len(reads) + len(load.seconds["POST file"])
    return {
        "clients": options.clients, "seconds": round(seconds, 1), "pause_seconds": options.pause,
        "processors": os.cpu_count(), "requests": count, "requests_per_second": round(count / seconds, 1),
        "statuses": dict(load.statuses), "GET_ms": in_milliseconds(reads),
        **{f"{kind}_ms": in_milliseconds(values) for kind, values in sorted(load.seconds.items())},
        "clients_cpu_seconds": round(cpu, 1), "api_cpu_seconds": round(api_cpu, 1),
    }  # fmt: skip


async def run(load: Load, paths: list[tuple[str, str]], until: float) -> None:
    await asyncio.gather(*(load.client(paths, number, until) for number in range(load.options.clients)))


def api_process(server: int) -> psutil.Process:
    (api,) = [child for child in psutil.Process(server).children() if "residency.server.api" in child.cmdline()]
    return api


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def prepare(url: str, key: str) -> list[tuple[str, str]]:
    """Makes the jobs and waits for them; then what there is to read."""
    form: Any = {"data": {"purpose": "fine-tune"}, "files": {"file": ("t.jsonl", UPLOAD)}}
    bearer = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=bearer, timeout=TIMEOUT_SECONDS, trust_env=False) as http:
        file = http.post("/files", **form).json()["id"]
        body = {"model": "gpt-4o-mini", "training_file": file}
        jobs = [http.post("/fine_tuning/jobs", json=body).json()["id"] for _ in range(JOBS)]
        for job in jobs:
            while http.get(f"/fine_tuning/jobs/{job}").json()["status"] != "succeeded":
                time.sleep(0.5)
    paths = [("GET file", f"/files/{file}"), ("GET jobs", "/fine_tuning/jobs")] * JOBS
    for job in jobs:
        paths += [("GET job", f"/fine_tuning/jobs/{job}"), ("GET events", f"/fine_tuning/jobs/{job}/events"),
                  ("GET checkpoints", f"/fine_tuning/jobs/{job}/checkpoints")]  # fmt: skip
    return paths


def in_milliseconds(seconds: list[float]) -> dict[str, float]:
    values = np.percentile(seconds, PERCENTILES) if seconds else np.zeros(len(PERCENTILES))
    return {f"p{percent}": round(float(value) * 1e3, 1) for percent, value in zip(PERCENTILES, values, strict=True)}


if __name__ == "__main__":
    main()
