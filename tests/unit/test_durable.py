from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors import SafetensorError

from residency import durable
from residency.errors import ResourceError


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    durable.write_json(path, {"old": 1})
    durable.write_json(path, {"new": "größer"})
    assert path.read_text(encoding="utf-8") == '{\n  "new": "größer"\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    durable.write_text(path, "old")

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ResourceError, match="the disk is full"):
        durable.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_written_in_parts_is_not_there_before_its_end(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    durable.write_text(path, "old")
    with suppress(ValueError), durable.new_file(path) as file:
        file.write(b"new")
        raise ValueError("stopped in the middle")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("whole", ["", '{"a":1}\n', '{"a":1}\n' * 2000])
def test_a_line_cut_off_by_a_kill_does_not_spoil_the_next(tmp_path: Path, whole: str) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text(whole + '{"cut": ' + "x" * 9000)
    assert durable.read_jsonl(path) == [{"a": 1}] * whole.count("\n")
    durable.append_line(path, '{"b":2}')
    assert durable.read_jsonl(path) == [{"a": 1}] * whole.count("\n") + [{"b": 2}]


def test_no_file_is_no_records(tmp_path: Path) -> None:
    assert durable.read_jsonl(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (OSError(errno.ENOSPC, ""), "disk_full"),
        (OSError(errno.EDQUOT, ""), "disk_full"),
        (OSError(errno.EFBIG, ""), "disk_full"),
        (OSError(errno.EACCES, ""), "not_writable"),
        (OSError(errno.EROFS, ""), "not_writable"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "disk_full"),
    ],
)
def test_what_the_system_refuses_becomes_an_error_with_a_way_out(raised: Exception, code: str) -> None:
    with pytest.raises(ResourceError) as caught, durable.disk_errors(Path("run/adapter")):
        raise raised
    assert caught.value.code == code
    assert caught.value.param == "run/adapter"
    assert caught.value.hint


@pytest.mark.parametrize("raised", [OSError(errno.EIO, "broken"), SafetensorError("invalid header")])
def test_other_failures_are_not_disguised(raised: Exception) -> None:
    with pytest.raises(type(raised)), durable.disk_errors(Path("run")):
        raise raised
