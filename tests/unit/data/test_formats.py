"""Each row format becomes the same kind of conversation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from residency.data.formats import detect
from residency.data.messages import Example
from residency.data.validate import load_examples


def load_row(tmp_path: Path, row: dict[str, Any], **options: Any) -> Example:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    [example] = load_examples(str(tmp_path / "rows.jsonl"), **options).examples
    return example


def said(example: Example) -> list[tuple[str, str | None]]:
    return [(message["role"], message["content"]) for message in example.messages]


@pytest.mark.parametrize(
    ("keys", "format"),
    [
        (["messages", "tools"], "chat"),
        (["conversations"], "sharegpt"),
        (["prompt", "completion", "id"], "prompt_completion"),
        (["instruction", "input", "output"], "instruction"),
        (["text", "url"], "text"),
        (["messages", "text"], "chat"),
        (["prompt"], None),
        (["chosen", "rejected"], None),
    ],
)
def test_the_keys_tell_the_format(keys: list[str], format: str | None) -> None:
    assert detect(dict.fromkeys(keys)) == format


def test_chat(tmp_path: Path) -> None:
    row = {
        "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "ann"},
            {"role": "assistant", "content": "c", "weight": 0, "refusal": None, "tool_calls": []},
            {"role": "user", "content": "d"},
            {"role": "assistant", "content": "e", "weight": 1.0},
        ],
        "parallel_tool_calls": False,
    }
    example = load_row(tmp_path, row)
    assert example.messages == (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "ab", "name": "ann"},
        {"role": "assistant", "content": "c", "weight": 0},
        {"role": "user", "content": "d"},
        {"role": "assistant", "content": "e", "weight": 1},
    )


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def test_chat_with_tools(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    row = {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
            {"role": "assistant", "content": "b"},
        ],
        "tools": [TOOL],
    }
    example = load_row(tmp_path, row)
    assert example.messages[1] == {"role": "assistant", "content": None, "tool_calls": [call]}
    assert example.messages[2] == {"role": "tool", "content": "2", "tool_call_id": "c1"}
    assert example.tools == (TOOL,)


def test_chat_with_the_older_functions_means_the_same(tmp_path: Path) -> None:
    row = {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"x": 1}'}},
            {"role": "function", "name": "f", "content": "2"},
            {"role": "assistant", "content": "b"},
        ],
        "functions": [TOOL["function"]],
    }
    example = load_row(tmp_path, row)
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    assert example.messages[1] == {"role": "assistant", "content": None, "tool_calls": [call]}
    assert example.messages[2] == {"role": "tool", "content": "2", "name": "f"}
    assert example.tools == (TOOL,)


def test_prompt_and_completion(tmp_path: Path) -> None:
    example = load_row(tmp_path, {"prompt": "a", "completion": " b"})
    assert said(example) == [("user", "a"), ("assistant", " b")]


def test_instruction(tmp_path: Path) -> None:
    row = {
        "instruction": "translate",
        "input": "good day",
        "output": "guten Tag",
        "system": "be exact",
        "history": [["hello", "hallo"]],
    }
    assert said(load_row(tmp_path, row)) == [
        ("system", "be exact"),
        ("user", "hello"),
        ("assistant", "hallo"),
        ("user", "translate\n\ngood day"),
        ("assistant", "guten Tag"),
    ]
    assert said(load_row(tmp_path, {"instruction": "a", "input": "", "output": "b"})) == [
        ("user", "a"),
        ("assistant", "b"),
    ]


def test_sharegpt(tmp_path: Path) -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "how warm"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Bern"}}'},
            {"from": "observation", "value": "20"},
            {"from": "gpt", "value": "warm", "weight": 1},
        ],
        "system": "be brief",
        "tools": '[{"name": "weather", "description": "d", "parameters": {}}]',
    }
    example = load_row(tmp_path, row)
    call = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    assert example.messages == (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "how warm"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "20"},
        {"role": "assistant", "content": "warm", "weight": 1},
    )
    tool = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {}}}
    assert example.tools == (tool,)


def test_sharegpt_with_roles_as_in_chat(tmp_path: Path) -> None:
    row = {"conversations": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": ""}
    assert said(load_row(tmp_path, row)) == [("user", "a"), ("assistant", "b")]


def test_text(tmp_path: Path) -> None:
    example = load_row(tmp_path, {"text": "a story\n"})
    assert example.text == "a story\n"
    assert example.messages == ()


def test_graders_see_the_row_with_its_reference_and_prompt(tmp_path: Path) -> None:
    example = load_row(tmp_path, {"prompt": "a", "completion": "b", "difficulty": 3})
    assert example.fields == {"prompt": "a", "completion": "b", "difficulty": 3, "reference": "b"}
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]
    row = {"messages": [*messages, {"role": "assistant", "content": "b"}]}
    assert load_row(tmp_path, row).fields == {**row, "prompt": "system: s\nuser: a", "reference": "b"}
    own = load_row(tmp_path, {**row, "reference": "mine"})
    assert own.fields["reference"] == "mine"
