"""Loading says which format it took and why, and asks of rows what their purpose needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from residency.data.audit.table import read_table
from residency.data.messages import Origin
from residency.data.validate import load_examples
from residency.errors import DataError


def write(tmp_path: Path, *rows: Any) -> str:
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


PAIR = {"prompt": "a", "completion": "b"}
UNTRAINED = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}


def test_every_row_becomes_an_example_in_order(tmp_path: Path) -> None:
    path = write(tmp_path, PAIR, {"prompt": "c", "completion": "d"})
    loaded = load_examples(path)
    assert [example.reference for example in loaded.examples] == ["b", "d"]
    assert [example.origin for example in loaded.examples] == [Origin(path, 1), Origin(path, 2)]
    assert loaded.rows_read == 2


def test_the_detected_format_comes_with_its_reason(tmp_path: Path) -> None:
    path = write(tmp_path, PAIR)
    loaded = load_examples(path)
    assert loaded.format == "prompt_completion"
    assert loaded.format_reason == f"the rows have 'prompt' and 'completion' (first seen at {path}:1)"


def test_a_format_that_is_set_is_taken_although_another_fits(tmp_path: Path) -> None:
    path = write(tmp_path, {**PAIR, "text": "whole"})
    loaded = load_examples(path, "text")
    assert [example.text for example in loaded.examples] == ["whole"]
    assert loaded.format_reason == "set by data.format"


def test_a_format_that_is_set_but_does_not_fit_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, PAIR)
    with pytest.raises(DataError, match=r'has no "messages", which a chat row needs .its keys: prompt, completion'):
        load_examples(path, "chat")


def test_mixed_formats_are_named_by_row(tmp_path: Path) -> None:
    path = write(tmp_path, PAIR, {"text": "x"}, PAIR)
    with pytest.raises(DataError) as caught:
        load_examples(path)
    assert caught.value.problems == [
        f"{path}:2: is of the format text, but the rows before it are prompt_completion; one file holds one format"
    ]


def test_test_rows_need_no_weight_but_a_reference(tmp_path: Path) -> None:
    path = write(tmp_path, UNTRAINED)
    with pytest.raises(DataError, match="nothing to train on"):
        load_examples(path, purpose="eval")
    assert load_examples(path, purpose="test").examples[0].reference == "b"
    text = write(tmp_path, {"text": "x"})
    with pytest.raises(DataError, match="a test row needs a prompt and a reference answer"):
        load_examples(text, purpose="test")


def test_null_stands_for_an_absent_key_as_parquet_writes_it(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    rows = [
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "content": "x", "tool_call_id": "c"},
                {"role": "assistant", "content": "b", "weight": 1},
            ],
            "tools": None,
        }
    ]
    columns = ["role", "content", "tool_calls", "tool_call_id", "weight"]
    for row in rows:
        row["messages"] = [{key: message.get(key) for key in columns} for message in row["messages"] or []]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    [example] = load_examples(str(tmp_path / "a.parquet")).examples
    assert example.messages[0] == {"role": "user", "content": "a"}
    assert example.messages[1] == {"role": "assistant", "content": None, "tool_calls": [call]}
    assert example.messages[3] == {"role": "assistant", "content": "b", "weight": 1}


BETTER, WORSE = [{"role": "assistant", "content": "fire"}], [{"role": "assistant", "content": "sky"}]


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        (
            {"prompt": "red", "chosen": "fire", "rejected": "sky"},
            "with Residency 0.2; for sft on the better answers",
        ),
        ({"chosen": BETTER, "rejected": WORSE}, "as prompt and completion (chosen)"),
        ({"input": {"messages": []}, "preferred_output": BETTER, "non_preferred_output": WORSE}, "(preferred_output)"),
        ({"conversations": [{"from": "human", "value": "red"}], "chosen": {}, "rejected": {}}, "preference training"),
        ({"prompt": "red", "chosen": "fire"}, "also has a rejected answer"),
        ({"prompt": "red", "rejected": "sky"}, "also has a chosen answer"),
        ({"prompt": "red", "answer": "fire"}, "reinforcement begins with Residency 0.3; for sft add a completion"),
        ({"prompt": "red", "completions": ["a"], "labels": [True]}, "train reward models"),
        ({"prompt": "red", "completion": ""}, "correct these rows"),
        ({"question": "red"}, "correct these rows"),
    ],
)
def test_rows_of_another_method_are_told_what_they_are_for(row: dict[str, Any], hint: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(row)}\n" * 5, encoding="utf-8")
    for read in (load_examples, read_table):
        with pytest.raises(DataError) as caught:
            read(str(path))
        assert hint in str(caught.value.hint)
        assert len(str(caught.value).splitlines()) == 6
