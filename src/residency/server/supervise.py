"""The parent of a server's processes: starts them, starts again what ends, carries their words into one log.

It does no work of its own, so that nothing a client sends can end it. When it is asked to stop it asks the children,
and waits until the open answers are sent and a running job has left its checkpoint.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from residency import durable
from residency.errors import ConfigError, RunError

POLL_SECONDS = 0.1
FIRST_BACKOFF_SECONDS = 0.5
MOST_BACKOFF_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A child that ran for this long starts again at once."""
SECONDS_TO_STOP = 150.0
"""A trainer finishes its step and writes a checkpoint, and its worker waits for it."""
LOCK = ".serve.lock"


@dataclass(slots=True)
class Child:
    name: str
    command: Sequence[str]
    """The module and its arguments, for `python -m`."""
    fds: tuple[int, ...] = ()
    """Open files that it inherits."""
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    ends: int = 0
    """How often it has ended in a row without having been steady."""
    start_at: float = 0.0
    reader: threading.Thread | None = field(default=None, repr=False)


def supervise(children: Sequence[Child], stopping: threading.Event) -> None:
    """Returns when `stopping` is set and all children have ended.

    Raises ConfigError where one cannot run with these settings at all.
    """
    try:
        while not stopping.is_set():
            for child in children:
                look_after(child)
            stopping.wait(POLL_SECONDS)
    finally:
        stop(children)


def look_after(child: Child) -> None:
    now = time.monotonic()
    if child.process is None:
        if now >= child.start_at:
            start(child)
        return
    code = child.process.poll()
    if code is None:
        return
    bury(child)
    if code == ConfigError.exit_code:
        raise ConfigError(f"the {child.name} process cannot run with these settings", hint="its words are above")
    child.ends = 1 if now - child.started > STEADY_SECONDS else child.ends + 1
    wait = 0.0 if child.ends == 1 else min(FIRST_BACKOFF_SECONDS * 2.0 ** (child.ends - 2), MOST_BACKOFF_SECONDS)
    child.start_at = now + wait
    write_line("server", f"{child.name} ended ({ending(code)}); it starts again {f'in {wait:g} s' if wait else 'now'}")


def start(child: Child) -> None:
    """In a group of its own: Ctrl-C is heard by this process alone, which passes it on in order."""
    child.process = subprocess.Popen(
        [sys.executable, "-m", *child.command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True, pass_fds=child.fds,
    )  # fmt: skip
    child.started = time.monotonic()
    assert child.process.stdout is not None
    child.reader = threading.Thread(target=carry_lines, args=(child.name, child.process.stdout), daemon=True)
    child.reader.start()


def carry_lines(name: str, output: IO[bytes]) -> None:
    with output:
        for line in output:
            write_line(name, line.decode(errors="replace").rstrip())


def write_line(name: str, text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {name:<9} {text}", file=sys.stderr, flush=True)


def bury(child: Child) -> None:
    """Whatever the child has left of its group goes with it, and its last lines are carried over."""
    assert child.process is not None
    assert child.process.stdin is not None
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, signal.SIGKILL)
    child.process.stdin.close()
    child.process.wait()
    if child.reader:
        child.reader.join(1.0)
    child.process = None


def stop(children: Sequence[Child]) -> None:
    """All at once; a second signal to this process ends what is left."""
    living = [child for child in children if child.process]
    write_line("server", "stopping: answers are finished and jobs leave their checkpoints; once more to stop at once")
    for child in living:
        assert child.process is not None
        child.process.terminate()
    deadline = time.monotonic() + SECONDS_TO_STOP
    try:
        while any(child.process and child.process.poll() is None for child in living) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        write_line("server", "stopped at once; jobs go on from their last checkpoints when the server is back")
    for child in living:
        bury(child)


def ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """The first SIGTERM or Ctrl-C asks to stop, a second one raises KeyboardInterrupt."""
    stopping = threading.Event()

    def ask(number: int, frame: object) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def only_server(home: Path) -> Iterator[None]:
    """Two servers on one folder would start everything twice. Raises RunError."""
    with durable.disk_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(home / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"another server runs on {home}", code="server_running", param="--home",
                           hint="stop it first, or name another folder with --home") from None  # fmt: skip
        yield
    finally:
        os.close(descriptor)
