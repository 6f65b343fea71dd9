"""Finding, making and claiming run folders; nothing is ever overwritten."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from residency import durable
from residency.errors import RunError
from residency.records import RunFolder

LOCK = ".lock"


def create(runs: Path, name: str) -> Path:
    """A new folder `name`, or `name-2`, `name-3` … where that is taken. Raises ResourceError."""
    number = 1
    while True:
        folder = runs / (name if number == 1 else f"{name}-{number}")
        with durable.disk_errors(folder):
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                number += 1
            except NotADirectoryError:
                raise RunError(
                    f"{runs} cannot hold runs: a part of this path is a file", param=str(runs),
                    hint="choose another folder with --runs",
                ) from None  # fmt: skip


def unfinished(runs: Path, name: str) -> Path:
    """The newest folder of that name which has no summary yet."""
    found = [run.path for run in list_runs(runs) if re.fullmatch(rf"{re.escape(name)}(-\d+)?", run.path.name)]
    going = [path for path in found if not (path / "summary.json").exists()]
    if not going:
        state = "is finished" if found else "was never begun"
        raise RunError(f"there is nothing to resume: {runs / name} {state}", param=str(runs / name),
                       hint="leave out --resume to begin a new run")  # fmt: skip
    return going[-1]


def list_runs(runs: Path) -> list[RunFolder]:
    """Oldest first."""
    folders = [path.parent for path in runs.glob("*/config.yaml")] if runs.is_dir() else []
    return [RunFolder(path) for path in sorted(folders, key=lambda p: ((p / "config.yaml").stat().st_mtime, p.name))]


def find_run(runs: Path, name: str) -> RunFolder:
    """By name below `runs`, or by path."""
    for path in (runs / name, Path(name)):
        if (path / "config.yaml").is_file():
            return RunFolder(path)
    known = ", ".join(run.path.name for run in list_runs(runs)) or "none"
    raise RunError(f"there is no run {name} in {runs}", param=name, hint=f"runs that are there: {known}")


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Keeps other processes off this run; the claim ends with the process, however it ends."""
    with durable.disk_errors(folder):
        descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder} is in use by another process", param=str(folder), code="run_in_use",
                           hint="wait for it to end, or begin a run under another name") from None  # fmt: skip
        yield
    finally:
        os.close(descriptor)
