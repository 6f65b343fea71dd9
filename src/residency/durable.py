"""Files that appear whole or not at all: write aside, fsync, rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom, BufferedWriter
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from residency.errors import ResourceError, RunError

FREE_SPACE = "free some space, then run again with --resume"
OTHER_FOLDER = "choose another folder with --runs"
REFUSALS = {
    errno.ENOSPC: ("disk_full", "the disk is full", FREE_SPACE),
    errno.EDQUOT: ("disk_full", "the disk quota is used up", FREE_SPACE),
    errno.EFBIG: ("disk_full", "the file is larger than this file system or `ulimit -f` allows", OTHER_FOLDER),
    errno.EACCES: ("not_writable", "permission denied", OTHER_FOLDER),
    errno.EPERM: ("not_writable", "permission denied", OTHER_FOLDER),
    errno.EROFS: ("not_writable", "the file system is read-only", OTHER_FOLDER),
}
"""By the system's error number: our code, the reason in words, and what to do."""


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_bytes(path: Path, data: bytes) -> None:
    with new_file(path) as file:
        file.write(data)


@contextmanager
def new_file(path: Path) -> Iterator[BufferedWriter]:
    """A file to write into, which replaces `path` in one step when the block ends without an error.

    A reader sees the old content or the new, never a part.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            with aside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            sync_folder(path.parent)
        finally:
            aside.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Appends one whole line with a single write, so that a kill leaves at most one unfinished last line.

    Such a line of an earlier kill is cut off first; it would spoil this one.
    """
    with disk_errors(path), path.open("a+b") as file:
        drop_unfinished_line(file)
        file.write(line.encode() + b"\n")


def drop_unfinished_line(file: BufferedRandom) -> None:
    end = start = file.seek(0, os.SEEK_END)
    tail = b""
    while start > 0 and b"\n" not in tail:
        step = min(start, 4096)
        start = file.seek(start - step)
        tail = file.read(step) + tail
    whole = start + tail.rfind(b"\n") + 1
    if whole < end:
        file.truncate(whole)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The complete records of a JSONL file; a last line cut off by a kill is left out.

    Raises RunError where another line is damaged.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [_parse(line, path, number) for number, line in enumerate(lines[:-1], 1) if line.strip()]


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise RunError(f"{path}:{number} is damaged", param=str(path), hint="restore the file, or begin a new run")
    return value


def sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns the operating system's refusals into errors that say what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        refusal = REFUSALS.get(error_number(error) or 0)
        if refusal is None:
            raise
        code, reason, hint = refusal
        raise ResourceError(f"cannot write {path}: {reason}", code=code, hint=hint, param=str(path)) from error


def error_number(error: OSError | SafetensorError) -> int | None:
    """The system's number of the error, which safetensors writes into its text alone."""
    if isinstance(error, OSError):
        return error.errno
    number = re.search(r"\(os error (\d+)\)", str(error))
    return int(number[1]) if number else None
