"""What a worker and its trainer tell each other of one job, in files beside its run file."""

from __future__ import annotations

import json
from pathlib import Path

STOP = "stop"
"""The worker wants this job's training stopped, whatever becomes of the others."""
ENDED = "ended.json"
"""The trainer is through with the job; its exit code, were it alone."""


def ask_to_stop(work: Path) -> None:
    (work / STOP).touch()


def asked_to_stop(work: Path) -> str | None:
    return "the server asked to stop" if (work / STOP).exists() else None


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
    for name in (STOP, ENDED):
        (work / name).unlink(missing_ok=True)
