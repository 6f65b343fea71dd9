"""A measurement of many parts, shared out among processes, and their files put together again."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--share", default="0/1", metavar="K/N", help="every N-th part only, from the K-th (0/4, 1/4 …)"
    )
    parser.add_argument("--merge", nargs="+", type=Path, default=[], metavar="FILE",
                        help="put these files together as --out, and measure nothing")  # fmt: skip


def share_of(parts: Sequence[T], share: str) -> list[T]:
    first, step = map(int, share.split("/"))
    return list(parts[first::step])


def read_all(files: Sequence[Path], conditions: str) -> list[dict[str, Any]]:
    """Ends the program where the files were not measured under the same conditions."""
    found = [json.loads(file.read_text()) for file in files if file.exists()]
    for file, one in zip([file for file in files if file.exists()], found, strict=True):
        if different := [key for key, value in one[conditions].items() if found[0][conditions].get(key) != value]:
            sys.exit(f"{file} was measured with another {', '.join(different)} than {files[0]}")
    return found
