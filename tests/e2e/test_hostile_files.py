"""Fifty files made to break a reader: each ends in a finding or a clear error, within bounded memory.

The long proof checks every file in a process whose address space is limited, where a reader that takes more fails.
"""

from __future__ import annotations

import gzip
import json
import re
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.e2e.conftest import residency

MEMORY_BYTES = 4 * 1024**3
GOOD = '{"prompt": "What is it?", "completion": "A row."}'
Write = Callable[[Path], object]


def text(content: str | bytes) -> Write:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def rows(*values: object) -> Write:
    return text("".join(json.dumps(value) + "\n" for value in values))


def chat(*turns: object) -> Write:
    return rows({"messages": list(turns)})


def table(**columns: object) -> Write:
    return lambda path: parquet.write_table(pa.table(columns), path)


def bomb(path: Path, count: int = 100_000, size: int = 5_000_000) -> None:
    """Half a terabyte of text in some kilobytes."""
    value = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array(["x" * size]))
    parquet.write_table(pa.table({"prompt": value, "completion": value}), path, compression="zstd")


def nested_bomb(path: Path) -> None:
    turns = [{"role": "user", "content": "y" * 1_000_000}, {"role": "assistant", "content": "z" * 1_000_000}]
    writer = None
    for _ in range(20):
        part = pa.table({"messages": [turns] * 20})
        writer = writer or parquet.ParquetWriter(path, part.schema, compression="zstd")
        for _ in range(5):
            writer.write_table(part)
    assert writer is not None
    writer.close()


def cut(write: Write, keep: float) -> Write:
    def spoil(path: Path) -> None:
        write(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * keep)])

    return spoil


SMALL_TABLE = table(prompt=["What?"] * 50, completion=["This."] * 50)
FILES: dict[str, tuple[str, Write, int, str]] = {
    # what: ending, content, exit code, what is said
    "nothing": (".jsonl", text(""), 3, "is empty"),
    "only white space": (".jsonl", text("\n \n\t\n"), 3, "is empty"),
    "a line of 10 MB": (".jsonl", text('{"prompt": "' + "a" * 10_500_000), 3, ":1: is longer than 10 MB"),
    "a good row of 9 MB": (".jsonl", rows({"prompt": "What is it?", "completion": "word " * 1_800_000}), 0, "score"),
    "a word of 9 MB": (".jsonl", rows({"prompt": "What is it?", "completion": "w" * 9_000_000}), 0, "score"),
    "no line break in 50 MB": (".jsonl", text("[" * 50_000_000), 3, "is longer than 10 MB"),
    "deep lists": (".jsonl", text('{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}"), 3, "nested too deeply"),
    "deep objects": (".jsonl", text('{"a":' * 50_000 + "1" + "}" * 50_000), 3, "nested too deeply"),
    "deep array file": (".json", text("[" * 200_000), 3, "nested too deeply|not valid JSON"),
    "null bytes": (".jsonl", text(b"\0" * 1_000_000), 3, "null byte"),
    "UTF-16": (".jsonl", text(GOOD.encode("utf-16")), 3, "UTF-16"),
    "UTF-32": (".jsonl", text(GOOD.encode("utf-32")), 3, "UTF-16|null byte"),
    "Latin-1 within UTF-8": (".jsonl", text(f"{GOOD}\n".encode() + b'{"prompt": "caf\xe9"}\n'), 3, ":2: is not UTF-8"),
    "mixed encodings": (".jsonl", text(f"{GOOD}\n".encode() + GOOD.encode("utf-16-le") + b"\n"), 3, ":2:"),
    "a byte-order mark": (".jsonl", text(b"\xef\xbb\xbf" + GOOD.encode()), 0, "score"),
    "half a surrogate": (".jsonl", text('{"prompt": "\\ud800", "completion": "b"}'), 3, "surrogate"),
    "a lone emoji half in bytes": (".jsonl", text(b'{"prompt": "\xed\xa0\x80", "completion": "b"}'), 3, "not UTF-8"),
    "random bytes": (".jsonl", text(bytes(range(256)) * 4000), 3, "cannot be used"),
    "gzip under another name": (".jsonl", text(gzip.compress(GOOD.encode() * 1000)), 3, "cannot be used"),
    "an unknown ending": (".xlsx", text("PK\x03\x04"), 3, "unknown ending"),
    "a number of a million digits": (".jsonl", text('{"prompt": ' + "9" * 1_000_000 + "}"), 3, "not usable JSON"),
    "infinity": (".jsonl", text('{"prompt": 1e999, "completion": "b"}'), 3, "too large"),
    "NaN": (".jsonl", text('{"prompt": NaN, "completion": "b"}'), 3, "not JSON"),
    "a key a thousand times": (".jsonl", text("{" + '"prompt": "a",' * 1000 + '"completion": "b"}'), 3, "twice"),
    "a hundred thousand keys": (
        ".jsonl", rows({"prompt": "a b c", "completion": "d"} | {f"k{i}": i for i in range(100_000)}), 0, "score",
    ),
    "arrays for rows": (".jsonl", rows([1], [2]), 3, "expected an object"),
    "pretty-printed JSON": (".jsonl", text(json.dumps([{"prompt": "a"}], indent=2)), 3, "spread over several lines"),
    "an array cut off": (".json", text(f"[{GOOD}, {GOOD}"), 3, "cut off or damaged"),
    "text behind an array": (".json", text(f"[{GOOD}] x"), 3, "more text follows"),
    "two lists in an object": (".json", text('{"a": [], "b": []}'), 3, "not an array of rows"),
    "turns that are numbers": (".jsonl", chat(1, 2), 3, "expected an object with role"),
    "100,000 turns": (
        ".jsonl", chat(*[{"role": role, "content": "so"} for _ in range(50_000) for role in ("user", "assistant")]),
        0, "score",
    ),
    "an unknown role": (".jsonl", chat({"role": "root", "content": "x"}), 3, "role is"),
    "content as an object": (".jsonl", chat({"role": "user", "content": {"a": 1}}), 3, "expected text"),
    "deep tool arguments": (
        ".jsonl", chat({"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [
            {"function": {"name": "f", "arguments": '{"a":' * 20_000}}]}), 3, "arguments",
    ),
    "control characters and terminal codes": (
        ".jsonl", rows({"prompt": "\x1b[2J\x07 what?", "completion": "\x1b]0;x\x07 this"}), 0, "score",
    ),
    "rich markup": (".jsonl", rows({"prompt": "[/bold][link=x]", "completion": "[red]"}), 0, "score"),
    "right-to-left marks": (".jsonl", rows({"prompt": "\u202e\u2066 what", "completion": "\u202ethis"}), 0, "score"),
    "combining marks without end": (
        ".jsonl", rows({"prompt": "a" + "\u0301" * 500_000, "completion": "b"}), 0, "score",
    ),
    "patterns that backtrack: e-mail": (
        ".jsonl", rows({"prompt": "a." * 500_000 + "@", "completion": "b"}), 0, "score",
    ),
    "patterns that backtrack: digits": (".jsonl", rows({"prompt": "1 2-3." * 200_000, "completion": "b"}), 0, "score"),
    "patterns that backtrack: tokens": (
        ".jsonl", rows({"prompt": "<|" * 400_000, "completion": "eyJ." * 9999}), 0, "score",
    ),
    "patterns that backtrack: spaces": (
        ".jsonl", rows({"prompt": "\n " * 400_000, "completion": " " * 400_000 + "x"}), 0, "score",
    ),
    "CSV with an open quote": (".csv", text('prompt,completion\n"a,b\n' + "x,y\n" * 100_000), 3, "cannot be used"),
    "CSV with a cell of 20 MB": (
        ".csv", text("prompt,completion\n" + "a" * 20_000_000 + ",b\n"), 3, "longer than 10 MB",
    ),
    "CSV with uneven rows": (".csv", text("prompt,completion\na\nb,c,d\n"), 3, "cells; the header has 2"),
    "Parquet cut off": (".parquet", cut(SMALL_TABLE, 0.6), 3, "cannot be read as Parquet"),
    "Parquet of lies": (
        ".parquet", text(b"PAR1" + struct.pack("<I", 2**31 - 1) + b"PAR1"), 3, "cannot be read as Parquet",
    ),
    "Parquet with a bomb": (".parquet", bomb, 3, "times its size in text"),
    "Parquet with numbers for text": (".parquet", table(prompt=[1, 2], completion=[3, 4]), 3, "expected text"),
}  # fmt: skip
SLOW_FILES: dict[str, tuple[str, Write, int, str]] = {
    "2 million rows, all the same": (".jsonl", text(f"{GOOD}\n" * 2_000_000), 0, "1,999,999 rows"),
    "Parquet with a nested bomb": (".parquet", nested_bomb, 3, "times its size in text"),
    "a JSON array of 600 MB": (".json", text("[" + " " * 600_000_000), 3, "more than 500 MB"),
}


QUICK = [
    "nothing", "a line of 10 MB", "deep lists", "null bytes", "UTF-16", "half a surrogate", "infinity",
    "an array cut off", "an unknown role", "rich markup", "patterns that backtrack: e-mail", "CSV with uneven rows",
    "Parquet of lies",
]  # fmt: skip
"""Of each kind one, in this process: what a reader takes when it is wrong cannot be much."""


def check(path: Path, timeout_seconds: int) -> tuple[int, str]:
    program = "import sys; from residency.cli import main; sys.exit(main())"
    limits = (MEMORY_BYTES, MEMORY_BYTES)
    done = subprocess.run(
        [sys.executable, "-c", program, "check", str(path)], capture_output=True, check=False, timeout=timeout_seconds,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limits), cwd=path.parent,
    )  # fmt: skip
    return done.returncode, (done.stdout + done.stderr).decode()


@pytest.mark.parametrize("what", QUICK)
def test_a_hostile_file_ends_in_findings_or_a_clear_error(what: str, tmp_path: Path) -> None:
    ending, write, exit_code, says = FILES[what]
    path = tmp_path / f"rows{ending}"
    write(path)
    outcome = residency("check", path)
    assert_clear(outcome.exit_code, outcome.stdout + outcome.stderr, exit_code, says)


@pytest.mark.slow
@pytest.mark.parametrize("what", FILES | SLOW_FILES)
def test_a_hostile_file_takes_bounded_memory(what: str, tmp_path: Path) -> None:
    ending, write, exit_code, says = (FILES | SLOW_FILES)[what]
    path = tmp_path / f"rows{ending}"
    write(path)
    assert_clear(*check(path, 590), exit_code, says)


def assert_clear(code: int, said: str, exit_code: int, says: str) -> None:
    assert code == exit_code, said[-2000:]
    assert re.search(says, said), said[-2000:]
    assert "Traceback" not in said
    assert "bug of ours" not in said


def test_there_are_fifty() -> None:
    assert len(FILES) >= 50
