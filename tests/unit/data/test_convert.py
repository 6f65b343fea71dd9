"""Rows in another format say the same, or are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from residency.data.convert import Target, convert_file
from residency.data.validate import load_examples
from residency.errors import DataError

TURNS = [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Blue."}]
SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"role": "assistant", "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "find", "arguments": '{"what": "x"}'}}]}  # fmt: skip


def converted(tmp_path: Path, messages: list[dict[str, Any]], target: Target) -> tuple[Path, Path]:
    source, out = tmp_path / "in.jsonl", tmp_path / f"{target}.jsonl"
    source.write_text(json.dumps({"messages": messages}) + "\n")
    convert_file(str(source), out, target)
    return source, out


@pytest.mark.parametrize(
    ("messages", "target"),
    [
        (TURNS, "prompt_completion"),
        (TURNS, "instruction"),
        (TURNS, "sharegpt"),
        (TURNS, "chat"),
        ([SYSTEM, *TURNS, *TURNS], "instruction"),
        ([SYSTEM, *TURNS, *TURNS], "sharegpt"),
        ([TURNS[0], CALL, {"role": "tool", "content": "found"}, TURNS[1]], "sharegpt"),
        ([TURNS[0], CALL, {"role": "tool", "content": "found"}, TURNS[1]], "chat"),
    ],
)
def test_a_conversation_comes_back_as_it_was(messages: list[dict[str, Any]], target: Target, tmp_path: Path) -> None:
    source, out = converted(tmp_path, messages, target)
    assert load_examples(str(out)).format == target
    assert load_examples(str(out)).examples[0].messages == load_examples(str(source)).examples[0].messages


@pytest.mark.parametrize(
    ("messages", "target"),
    [
        ([SYSTEM, *TURNS], "prompt_completion"),
        ([TURNS[0], CALL, {"role": "tool", "content": "found"}, TURNS[1]], "instruction"),
        ([TURNS[0], {**TURNS[1], "weight": 1}], "sharegpt"),
    ],
)
def test_what_would_be_lost_is_refused(messages: list[dict[str, Any]], target: Target, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no place for 1 of 1 row of"):
        converted(tmp_path, messages, target)
    assert not (tmp_path / f"{target}.jsonl").exists()
