"""Runs a Python grader's source in a child process: one child answers many rows, and is replaced after a crash.

The kernel holds: a wall-clock and a CPU limit per row, 2 GiB of memory, no file larger than zero bytes, no further
process or thread (except for root), an environment without the parent's variables, and on Linux, where user namespaces
are allowed, a network namespace with no interface. From Linux 5.13 on (Landlock) there is nothing to read but Python
and its packages, nothing to write, and from 6.7 on no TCP. On top, an audit hook refuses sockets, other processes,
writing, ctypes and /proc to Python code; where the kernel has none of this, it alone keeps the network shut.

Not held: the hook is no wall against code that sets out to get around it (PEP 578), and without Landlock the grader may
read what the user may read. There, this stops mistakes and plain attempts, not an attacker.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from residency.errors import GraderError

TIMEOUT_SECONDS = 30.0
MEMORY_BYTES = 2 * 1024**3
LONGEST_REPLY_BYTES = 64 * 1024
MOST_TIMEOUTS_IN_A_ROW = 3
SANDBOX = Path(__file__).with_name("sandbox.py")
START_HINT = "check that the Python that runs Residency can be executed, and the limit on processes"
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Reply(NamedTuple):
    score: float
    error: str | None


class PythonChild:
    """Use as a context manager; `score` may be called from several threads and answers one row at a time."""

    def __init__(
        self, source: str, *, timeout_seconds: float = TIMEOUT_SECONDS, memory_bytes: int = MEMORY_BYTES
    ) -> None:
        if os.name != "posix":
            raise GraderError("python graders need Linux or macOS", hint="use another grader on this machine")
        self.source = source
        self.timeout_seconds = timeout_seconds
        self.memory_bytes = memory_bytes
        self.timeouts_in_a_row = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.lock = threading.Lock()

    def __enter__(self) -> PythonChild:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def score(self, sample: dict[str, Any], item: dict[str, Any]) -> Reply:
        """The grader's number; 0 with the reason where it failed, crashed or took too long.

        Raises GraderError after three rows in a row that took too long: the others would as well.
        """
        with self.lock:
            deadline = time.monotonic() + self.timeout_seconds
            try:
                process = self.process or self._start(deadline)
                reply = json.loads(_exchange(process, _line({"sample": sample, "item": item}), deadline))
                if reply["cpu_seconds"] > self.timeout_seconds:
                    self.stop()  # its CPU limit must leave the next row its full time
                self.timeouts_in_a_row = 0
                return Reply(float(reply["score"]), reply["error"])
            except TimeoutError:
                self.stop()
                self._count_timeout()
                return Reply(0.0, f"no answer within {self.timeout_seconds:g} s")
            except (OSError, EOFError, ValueError, KeyError, TypeError):
                return Reply(0.0, f"the grader's process ended ({self.stop()})")

    def stop(self) -> str:
        """Ends the child and whatever it started, and says how it ended."""
        process, self.process = self.process, None
        if process is None:
            return "it did not start"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"exit status {process.returncode}"

    def _start(self, deadline: float) -> subprocess.Popen[bytes]:
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-B", str(SANDBOX)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env=ENVIRONMENT, cwd="/", start_new_session=True, bufsize=0,
            )  # fmt: skip
        except OSError as error:
            raise GraderError(f"cannot start a process for the python grader: {error}", hint=START_HINT) from error
        start = {
            "source": self.source,
            "memory_bytes": self.memory_bytes,
            "cpu_seconds": int(2 * self.timeout_seconds) + 1,
        }
        _send(self.process, _line(start), deadline)
        return self.process

    def _count_timeout(self) -> None:
        self.timeouts_in_a_row += 1
        if self.timeouts_in_a_row == MOST_TIMEOUTS_IN_A_ROW:
            raise GraderError(
                f"the python grader gave no answer within {self.timeout_seconds:g} s, "
                f"{MOST_TIMEOUTS_IN_A_ROW} rows in a row",
                hint="look for a loop that does not end in its source",
            )


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _exchange(process: subprocess.Popen[bytes], request: bytes, deadline: float) -> bytes:
    _send(process, request, deadline)
    assert process.stdout is not None
    reply = b""
    while not reply.endswith(b"\n"):
        _wait(process.stdout.fileno(), select.POLLIN, deadline)
        part = os.read(process.stdout.fileno(), LONGEST_REPLY_BYTES)
        reply += part
        if not part or len(reply) > LONGEST_REPLY_BYTES:
            raise EOFError
    return reply


def _send(process: subprocess.Popen[bytes], data: bytes, deadline: float) -> None:
    assert process.stdin is not None
    os.set_blocking(process.stdin.fileno(), False)
    while data:
        _wait(process.stdin.fileno(), select.POLLOUT, deadline)
        data = data[os.write(process.stdin.fileno(), data) :]


def _wait(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError
