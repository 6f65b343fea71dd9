"""Files that appear whole or not at all: write aside, fsync, rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path
from typing import Any

from residency.errors import ResourceError


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces `path` in one step; a reader sees the old content or the new, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            with aside.open("wb") as file:
                file.write(data)
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
    """The complete records of a JSONL file; a last line cut off by a kill is left out."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1] if line.strip()]


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
    except OSError as error:
        reasons = {
            errno.ENOSPC: ("disk_full", "the disk is full", "free some space, then run again with --resume"),
            errno.EDQUOT: (
                "disk_full",
                "the disk quota is used up",
                "free some space, then run again with --resume",
            ),
            errno.EACCES: ("not_writable", "permission denied", "choose another folder with --runs"),
            errno.EPERM: ("not_writable", "permission denied", "choose another folder with --runs"),
            errno.EROFS: (
                "not_writable",
                "the file system is read-only",
                "choose another folder with --runs",
            ),
            errno.EFBIG: (
                "disk_full",
                "the file is larger than this file system or `ulimit -f` allows",
                "choose another folder with --runs, or raise the limit, then run again with --resume",
            ),
        }
        if error.errno not in reasons:
            raise
        code, reason, hint = reasons[error.errno]
        raise ResourceError(
            f"cannot write {path}: {reason}", code=code, hint=hint, param=str(path)
        ) from error
