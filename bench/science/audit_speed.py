"""Time and memory of `residency check` without a model over 10,000, 100,000 and 1,000,000 rows.

    python bench/science/audit_speed.py [--rows 10000 100000 1000000]

The rows are made of sentences from the docstrings of installed packages, about 60 words a row; one in fifty copies an
earlier one, word for word or nearly. Each size is checked in a process of its own, from the file to the findings; the
seconds are those of stages 0 and 1, the memory that of all, each process at its peak.
Writes bench/results/audit_speed.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
from docstrings import docstring_rows

RESULTS = Path(__file__).parents[1] / "results" / "audit_speed.json"
PACKAGES = ("stdlib", "numpy", "scipy", "pandas", "matplotlib", "torch")
LIMITS = {10_000: (10.0, 4.0), 1_000_000: (1200.0, 4.0)}
"""Seconds and GB that a size may take."""


@cache
def parts_of_rows() -> tuple[list[str], list[str]]:
    """(sentences for the prompts, sentences for the answers)."""
    rows = docstring_rows(PACKAGES, 100_000)
    turns = [[turn["content"] or "" for turn in row["messages"]] for row in rows]
    sentences = [part.strip() for prompt, _ in turns for part in prompt.split(". ") if part.count(" ") > 5]
    return sentences, [answer for _, answer in turns]


def write_rows(file: Path, count: int) -> None:
    sentences, answers = parts_of_rows()
    chance = random.Random(0)
    earlier: list[tuple[str, str]] = []
    with file.open("w", encoding="utf-8") as out:
        for number in range(count):
            if earlier and number % 50 == 0:
                prompt, answer = chance.choice(earlier)
                prompt = prompt if number % 100 else prompt.replace(" the ", " ", 1)
            else:
                prompt = ". ".join(chance.choice(sentences) for _ in range(3))
                answer = f"{chance.choice(answers)} {chance.choice(answers)}"
                if len(earlier) < 10_000:
                    earlier.append((prompt, answer))
            messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
            out.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def measure(file: Path) -> dict[str, Any]:
    from residency.data.audit import audit
    from residency.data.audit.table import read_table

    topics = {"seconds": 0.0, "seconds_cpu": 0.0}
    audit.read_subjects = timed(audit.read_subjects, topics)
    audit.check_subjects = timed(audit.check_subjects, topics)
    whole: dict[str, float] = dict.fromkeys(topics, 0.0)

    def check() -> Any:
        return audit.audit(read_table(str(file)).table)

    with peak_of_children() as beside:
        found = timed(check, whole)()
    return {
        "rows": len(found.table),
        **{name: round(whole[name] - topics[name], 1) for name in whole},
        "seconds_cpu_of_topics": round(topics["seconds_cpu"], 1),
        "seconds_cpu_beside": round(beside.cpu_seconds, 1),
        "peak_gb": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + beside.bytes) / 1e9, 2),
        "peak_gb_beside": round(beside.bytes / 1e9, 2),
        "file_mb": round(file.stat().st_size / 1e6),
        "findings": {finding.check: len(finding.rows) for finding in found.findings},
    }


@dataclass
class Children:
    bytes: int = 0
    """The sum of their peaks."""
    cpu_seconds: float = 0.0


@contextmanager
def peak_of_children() -> Iterator[Children]:
    """What this process's children take, looked at four times a second (Linux).

    `RUSAGE_CHILDREN` does not tell their memory: it counts the parent's, which a child shares for a moment.
    """
    found, ended = Children(), Event()

    def watch() -> None:
        peaks: dict[int, int] = {}
        while not ended.wait(0.25):
            for child in psutil.Process().children(recursive=True):
                with suppress(OSError):
                    status = Path(f"/proc/{child.pid}/status").read_text(encoding="utf-8")
                    if peak := re.search(r"VmHWM:\s+(\d+) kB", status):  # an ended one has none
                        peaks[child.pid] = 1024 * int(peak[1])
        found.bytes = sum(peaks.values())

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    watcher = Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def timed(function: Callable[..., Any], spent: dict[str, float]) -> Callable[..., Any]:
    """`function`, whose wall and CPU seconds are added to `spent`."""

    def run(*given: Any) -> Any:
        began, used = time.perf_counter(), time.process_time()
        result = function(*given)
        spent["seconds"] += time.perf_counter() - began
        spent["seconds_cpu"] += time.process_time() - used
        return result

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--measure", type=Path, help="measure this file in this process and print it as JSON")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    results = (
        {result["rows"]: result for result in json.loads(RESULTS.read_text())["results"]} if RESULTS.exists() else {}
    )
    for count in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "rows.jsonl"
            write_rows(file, count)
            done = subprocess.run([sys.executable, __file__, "--measure", str(file)], capture_output=True, text=True,
                                  check=False, env=os.environ | {"OMP_NUM_THREADS": "2"})  # fmt: skip
        if done.returncode:
            sys.exit(done.stderr)
        result = json.loads(done.stdout)
        seconds, gigabytes = LIMITS.get(count, (float("inf"), float("inf")))
        result["within_limits"] = result["seconds"] <= seconds and result["peak_gb"] <= gigabytes
        results[count] = result | {"cores": os.cpu_count(), "load_of_15_minutes": round(os.getloadavg()[2], 1)}
        print(results[count], flush=True)
        RESULTS.write_text(json.dumps({"results": [results[rows] for rows in sorted(results)]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
