"""How fast `residency serve` answers many clients that follow jobs and upload files.

    python bench/server_load.py [--clients 200] [--seconds 120] [--pause 1.0]

Each client sends a request, waits for its answer, and pauses for `--pause` seconds on average (half to one and a half
of it; 0 never pauses). Nine of ten requests read (a job, its events, its checkpoints, the jobs, a file, in turn), the
tenth uploads 64 KiB. The server has 40 jobs, trained by the stand-in for a trainer before the clock starts. The
clients run on the same processors, in one process, which counts against the server.
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

RESULTS = Path(__file__).resolve().parent / "results" / "server_load.jsonl"
JOBS = 40
READ_OF_TEN = 9
UPLOAD = b'{"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]}\n' * 744
PERCENTILES = (50, 95, 99, 100)


class Load:
    """What the clients met: seconds by kind of request, and statuses."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.statuses: Counter[str] = Counter()

    async def client(self, http: httpx.AsyncClient, paths: list[tuple[str, str]], number: int, until: float) -> None:
        moments = random.Random(number)
        count = moments.randrange(10)
        await asyncio.sleep(moments.uniform(0, self.options.pause))
        while time.monotonic() < until:
            if count % 10 < READ_OF_TEN:
                kind, path = moments.choice(paths)
                await self.timed(http, kind, "GET", path)
            else:
                form: Any = {"data": {"purpose": "fine-tune"}, "files": {"file": ("t.jsonl", UPLOAD)}}
                await self.timed(http, "POST file", "POST", "/files", **form)
            count += 1
            await asyncio.sleep(self.options.pause * moments.uniform(0.5, 1.5))

    async def timed(self, http: httpx.AsyncClient, kind: str, method: str, path: str, **body: Any) -> None:
        began = time.perf_counter()
        try:
            response = await http.request(method, path, **body)
            self.statuses[str(response.status_code)] += 1
        except httpx.HTTPError as error:
            self.statuses[type(error).__name__] += 1
        self.seconds[kind].append(time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--pause", type=float, default=1.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = ["serve", "--conformance-fixtures", "--home", str(Path(folder) / "home"), "--port", "0"]
        program = f"import sys; from residency.cli import main; sys.exit(main({words!r}))"
        log = Path(folder) / "log"
        with log.open("wb") as opened:
            server = subprocess.Popen([sys.executable, "-c", program], stderr=opened)
        try:
            found = asyncio.run(measure(address(log), options))
        finally:
            server.terminate()
            server.wait()
    print(json.dumps(found, indent=2))
    with RESULTS.open("a") as results:
        results.write(json.dumps(found) + "\n")


def address(log: Path) -> str:
    """Where the server answers; this waits until it says so."""
    while not (found := re.search(rb"base_url (\S+),", log.read_bytes())):
        time.sleep(0.1)
    return found[1].decode()


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    load = Load(options)
    limits = httpx.Limits(max_connections=options.clients, max_keepalive_connections=options.clients)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits, trust_env=False) as http:
        paths = await prepare(http)
        began, cpu = time.monotonic(), time.process_time()
        until = began + options.seconds
        await asyncio.gather(*(load.client(http, paths, number, until) for number in range(options.clients)))
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    reads = [one for kind, values in load.seconds.items() if kind.startswith("GET") for one in values]
    count = len(reads) + len(load.seconds["POST file"])
    return {
        "clients": options.clients, "seconds": round(seconds, 1), "pause_seconds": options.pause,
        "processors": os.cpu_count(), "requests": count, "requests_per_second": round(count / seconds, 1),
        "statuses": dict(load.statuses), "GET_ms": in_milliseconds(reads),
        **{f"{kind}_ms": in_milliseconds(values) for kind, values in sorted(load.seconds.items())},
        "clients_cpu_seconds": round(cpu, 1),
    }  # fmt: skip


async def prepare(http: httpx.AsyncClient) -> list[tuple[str, str]]:
    """Makes the jobs and waits for them; then what there is to read."""
    form: Any = {"data": {"purpose": "fine-tune"}, "files": {"file": ("t.jsonl", UPLOAD)}}
    file = (await http.post("/files", **form)).json()["id"]
    body = {"model": "gpt-4o-mini", "training_file": file}
    jobs = [(await http.post("/fine_tuning/jobs", json=body)).json()["id"] for _ in range(JOBS)]
    for job in jobs:
        while (await http.get(f"/fine_tuning/jobs/{job}")).json()["status"] != "succeeded":
            await asyncio.sleep(0.5)
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
