"""Rules that a machine can hold: short files and functions, and nothing of one machine in the repository."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONGEST_FILE_LINES = 400
LONGEST_FUNCTION_LINES = 60

SOURCES = sorted(path for folder in ("src", "examples", "bench") for path in (ROOT / folder).rglob("*.py"))
MACHINE_PATH = re.compile(r"(?<![\w./~-])/(?:work|root|opt|tmp/w|home/\w+|Users/\w+|mnt)/")
PACKAGE_INDEX = re.compile(
    r"(?:--(?:extra-)?index-url|--find-links)\b|\b(?:pypi|files\.pythonhosted|download\.pytorch)\.org"
)


def tracked_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listing.returncode:  # an unpacked archive, not a clone
        return SOURCES
    return [path for name in listing.stdout.splitlines() if (path := ROOT / name).is_file()]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE_LINES
    too_long = [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION_LINES
    ]
    assert not too_long


def test_no_file_names_a_package_index_or_a_path_of_one_machine() -> None:
    offences = []
    for path in tracked_files():
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if MACHINE_PATH.search(line) or PACKAGE_INDEX.search(line):
                offences.append(f"{relative(path)}:{number}: {line.strip()[:120]}")
    assert not offences, "\n".join(offences)
