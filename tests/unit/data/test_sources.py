"""The same rows come out of every kind of file, with the place each stands at."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from residency.data.messages import Origin
from residency.data.sources import RawRow, read_rows
from residency.errors import DataError

ROWS = [{"prompt": 'a, "b"\nc', "completion": "d"}, {"prompt": "\u00e9\U0001f600", "completion": "e"}]


def values(path: Path) -> list[Any]:
    rows = list(read_rows(str(path)))
    assert not [row.problem for row in rows if row.problem]
    return [row.value for row in rows]


def lines(path: Path) -> list[int]:
    return [row.origin.line for row in read_rows(str(path))]


@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "with a byte-order mark"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_jsonl(tmp_path: Path, start: str, newline: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes((start + newline.join(["", *(json.dumps(row, ensure_ascii=False) for row in ROWS), ""])).encode())
    assert values(path) == ROWS
    assert lines(path) == [2, 3]


@pytest.mark.parametrize(
    "wrap", [lambda rows: rows, lambda rows: {"version": 1, "data": rows}], ids=["array", "object"]
)
def test_json(tmp_path: Path, wrap: Any) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(wrap(ROWS), indent=2))
    assert values(path) == ROWS
    assert lines(path) == [1, 2]


@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_tables_count_physical_lines(tmp_path: Path, ending: str, delimiter: str) -> None:
    path = tmp_path / f"a.{ending}"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["prompt", "completion"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)
    assert values(path) == ROWS
    assert lines(path) == [2, 4]


def test_table_cells_of_conversations_hold_json(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["messages", "tools"], ['[{"role": "user", "content": "a"}]', ""]])
    assert values(path) == [{"messages": [{"role": "user", "content": "a"}]}]


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert values(tmp_path / "a.parquet") == ROWS
    assert lines(tmp_path / "a.parquet") == [1, 2]


def test_parquet_of_conversations_in_many_parts(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [{"messages": [{"role": "user", "content": f"{number} " * 20}] * 2} for number in range(300)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=30)
    assert values(tmp_path / "a.parquet") == rows


def test_text_has_one_document_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one story\n\n  another\n")
    assert values(tmp_path / "a.txt") == [{"text": "one story"}, {"text": "  another"}]
    assert lines(tmp_path / "a.txt") == [1, 3]


def test_rows_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\nbroken\n')
    rows = read_rows(str(tmp_path / "a.jsonl"))
    assert next(rows).value == {"text": "a"}
    assert next(rows) == RawRow(
        Origin(str(tmp_path / "a.jsonl"), 2), None, "is not valid JSON: Expecting value at column 1"
    )


def test_a_hub_set_needs_the_optional_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="needs the package `datasets`") as caught:
        list(read_rows("hub:org/name"))
    assert caught.value.hint == "pip install 'residency[hub]'"


def test_a_hub_set_that_cannot_be_reached_is_one_clear_error() -> None:
    program = "from residency.data.sources import read_rows; list(read_rows('hub:org/name:test'))"
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", program], env=offline, capture_output=True, text=True, check=False)
    assert "DataError: hub:org/name:test cannot be read from the Hub: Couldn't reach 'org/name'" in result.stderr


def test_a_hub_set_needs_a_name() -> None:
    with pytest.raises(DataError, match="needs a dataset's name"):
        list(read_rows("hub:"))
