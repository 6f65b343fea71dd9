"""What a worker and its trainer tell each other of one job, in files beside its run file."""

from __future__ import annotations

import json
import os
from pathlib import Path

STOP = "stop-{pid}"
"""The worker wants this job's training stopped in that process, whatever becomes of the others there."""
ENDED = "ended.json"
"""The trainer is through with the job; its exit code, were it alone."""


def ask_to_stop(work: Path, pid: int) -> None:
    """It names the process, because a worker that has lost a job must not stop the next one's."""
    (work / STOP.format(pid=pid)).touch()


def asked_to_stop(work: Path) -> str | None:
    """Of the present process."""
    return "the server asked to stop" if (work / STOP.format(pid=os.getpid())).exists() else None


def note_end(work: Path, code: int) -> None:
    """Whole or not at all: the worker reads it at any moment."""
    aside = work / f"{ENDED}.part"
    aside.write_text(json.dumps({"exit_code": code}))
    aside.replace(work / ENDED)


def exit_code(work: Path) -> int | None:
    """None while the trainer is at it."""
    try:
        return int(json.loads((work / ENDED).read_bytes())["exit_code"])
    except FileNotFoundError:
        return None


def begin_anew(work: Path) -> None:
    for left in (*work.glob(STOP.format(pid="*")), work / ENDED):
        left.unlink(missing_ok=True)
