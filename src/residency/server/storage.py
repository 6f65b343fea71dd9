"""Files by id, in a local folder or wherever else fsspec reaches. Ids are ours, so no path is a client's."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

import fsspec

from residency.errors import ConfigError, RequestError, ResourceError

OUR_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")
BLOCK_BYTES = 2**20


class Storage:
    def __init__(self, url: str, cache: Path) -> None:
        """`cache` is the local folder that copies of far files go to. Raises ConfigError."""
        try:
            self.system, self.root = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"cannot keep files at {url}: {error}", param="--files") from error
        self.cache = cache
        with refusals():
            self.system.makedirs(self.root, exist_ok=True)

    def path(self, id: str) -> str:
        if not OUR_ID.fullmatch(id):
            raise RequestError(f"No such File object: {id}", status=404, param="id")
        return f"{self.root}/{id}"

    def write(self, id: str, source: IO[bytes] | Iterator[bytes], *, most_bytes: int | None = None) -> int:
        """Stores the whole of `source` or nothing; returns its size. Raises ResourceError, RequestError."""
        aside, size = f"{self.path(id)}.part", 0
        blocks = source if isinstance(source, Iterator) else iter(lambda: source.read(BLOCK_BYTES), b"")
        try:
            with refusals():
                with self.system.open(aside, "wb") as target:
                    for block in blocks:
                        size += len(block)
                        if most_bytes is not None and size > most_bytes:
                            raise RequestError(
                                f"the file is larger than {most_bytes:,} bytes", status=413, code="file_too_large"
                            )
                        target.write(block)
                self.system.mv(aside, self.path(id))
        except (RequestError, ResourceError):
            self._forget(aside)
            raise
        return size

    def open(self, id: str) -> BinaryIO:
        """Raises RequestError where it is not there."""
        try:
            opened: BinaryIO = self.system.open(self.path(id), "rb")
        except FileNotFoundError:
            raise RequestError(f"No such File object: {id}", status=404, param="id") from None
        return opened

    def blocks(self, id: str) -> Iterator[bytes]:
        """Opened before the first block is asked for, so that a missing file is said at once."""
        return self._blocks(self.open(id))

    @staticmethod
    def _blocks(file: BinaryIO) -> Iterator[bytes]:
        with file:
            yield from iter(lambda: file.read(BLOCK_BYTES), b"")

    def delete(self, id: str) -> None:
        self._forget(self.path(id))

    def local_path(self, id: str) -> Path:
        """Where a program can read the file: the file itself, or a copy of a far one."""
        if self.system.protocol == "file" or "file" in self.system.protocol:
            return Path(self.path(id))
        copy = self.cache / id
        if not copy.exists():
            with refusals(), self.open(id) as source:
                self.cache.mkdir(parents=True, exist_ok=True)
                aside = copy.with_suffix(".part")
                with aside.open("wb") as target:
                    shutil.copyfileobj(source, target)
                aside.replace(copy)
        return copy

    def _forget(self, path: str) -> None:
        if self.system.exists(path):
            self.system.rm_file(path)


@contextmanager
def refusals() -> Iterator[None]:
    """Turns the file system's refusals into errors that say what to do, without naming our folders to a client."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = "the disk is full" if full else (error.strerror or type(error).__name__)
        raise ResourceError(f"cannot store the file: {reason}", code="disk_full" if full else "not_writable",
                            hint="free some space where the server keeps its files") from error  # fmt: skip


def as_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, with their numbers from 1."""
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, line
