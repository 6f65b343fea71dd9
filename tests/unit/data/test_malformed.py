"""Every malformed row is named with file, line and reason; no row is dropped, and no traceback reaches the user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from residency.data.validate import load_examples
from residency.errors import DataError

GOOD = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
USER = {"role": "user", "content": "hello"}
ANSWER = {"role": "assistant", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}


def chat(*messages: Any, **more: Any) -> str:
    return json.dumps({"messages": list(messages), **more})


LINES: dict[str, tuple[str | bytes, str]] = {
    # JSON
    "cut off": (GOOD[:40], "is not valid JSON: .* at column"),
    "cut off in a string": (GOOD[:-5], "is not valid JSON: Unterminated string starting at column"),
    "two values": (GOOD + GOOD, "is not valid JSON: more text after the value, from column"),
    "single quotes": ("{'messages': []}", "is not valid JSON"),
    "a trailing comma": ('{"messages": [],}', "is not valid JSON"),
    "NaN": ('{"text": "a", "x": NaN}', "contains NaN, which is not JSON"),
    "Infinity": ('{"text": "a", "x": -Infinity}', "contains -Infinity, which is not JSON"),
    "too large a float": ('{"text": "a", "x": 1e999}', "contains the number 1e999, which is too large"),
    "too long an integer": ('{"text": "a", "x": ' + "9" * 5000 + "}", "is not usable JSON"),
    "a key twice": ('{"messages": [], "messages": []}', 'has the key "messages" twice'),
    "deep nesting": ('{"messages": ' + "[" * 100_000, "is nested too deeply"),
    "half a surrogate pair": ('{"text": "\\ud83d"}', "half of a surrogate pair"),
    "an array": ("[1, 2]", "is a list; expected an object"),
    "a number": ("17", "is a number; expected an object"),
    "null": ("null", "is null; expected an object"),
    # bytes
    "latin-1": ('{"text": "caf\xe9"}'.encode("latin-1"), "is not UTF-8 .byte 0xe9 at position 14"),
    "a null byte": (b'{"text": "a\0b"}', "contains a null byte"),
    "a line over 10 MB": (b'{"text": "' + b"x" * 10_000_001 + b'"}', "is longer than 10 MB"),
    # rows
    "no known keys": ('{"mesages": []}', r"is of no known format \(its keys: mesages\); expected chat: messages"),
    "no keys": ("{}", "its keys: none"),
    "another format": ('{"prompt": "a", "completion": "b"}', "is of the format prompt_completion, but the rows before"),
    "a weight of its own": (chat(USER, ANSWER, weight=1), 'has an extra "weight"'),
    "messages of a wrong type": ('{"messages": "hello"}', "messages is text; expected a list"),
    "no messages": (chat(), "has no messages"),
    "tools of a wrong type": (chat(USER, ANSWER, tools={}), "tools is an object; expected a list"),
    "a tool without a name": (
        chat(USER, ANSWER, tools=[{"type": "function", "function": {}}]),
        r"tools\[0\].function.name is null",
    ),
    "a tool without its frame": (chat(USER, ANSWER, tools=[{"name": "f"}]), r"tools\[0\] is not"),
    "tools and functions": (chat(USER, ANSWER, tools=[], functions=[]), "has both tools and functions"),
    "parallel_tool_calls as text": (chat(USER, ANSWER, parallel_tool_calls="no"), "parallel_tool_calls is text"),
    # messages
    "a message as text": (chat("hello", ANSWER), r"messages\[0\] is text; expected an object"),
    "no role": (chat({"content": "a"}, ANSWER), r"messages\[0\] has no role"),
    "a misspelt role": (
        chat(USER, {"role": "asistant", "content": "b"}),
        r'messages\[1\].role is "asistant"; expected system, user, assistant or tool',
    ),
    "a role of a wrong type": (chat({"role": 1, "content": "a"}, ANSWER), r"messages\[0\].role is a number"),
    "an unknown message key": (
        chat(USER, {**ANSWER, "reasoning_content": "hm"}),
        r'messages\[1\] has the unknown key "reasoning_content"',
    ),
    "null content": (chat({"role": "user", "content": None}, ANSWER), r"messages\[0\].content is null"),
    "no content": (chat({"role": "user"}, ANSWER), r"messages\[0\].content is missing"),
    "content of a wrong type": (chat({"role": "user", "content": 3}, ANSWER), r"messages\[0\].content is a number"),
    "an image": (
        chat({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, ANSWER),
        r'messages\[0\].content\[0\] is of type "image_url"; only text',
    ),
    "a part without a type": (chat({"role": "user", "content": ["a"]}, ANSWER), r"messages\[0\].content\[0\] is not"),
    "an empty answer": (chat(USER, {"role": "assistant", "content": " \n"}), r"messages\[1\].content is empty"),
    "a null answer": (chat(USER, {"role": "assistant", "content": None}), r"messages\[1\].content is null and there"),
    "weight 2": (chat(USER, {**ANSWER, "weight": 2}), r"messages\[1\].weight is 2; expected 0 or 1"),
    "weight true": (chat(USER, {**ANSWER, "weight": True}), r"messages\[1\].weight is true; expected 0 or 1"),
    "a weight on a question": (chat({**USER, "weight": 0}, ANSWER), r"messages\[0\].weight stands on a user message"),
    "a call on a question": (
        chat({**USER, "tool_calls": [CALL]}, ANSWER),
        r"messages\[0\].tool_calls stands on a user",
    ),
    "a call of a wrong type": (chat(USER, {**CALLING, "tool_calls": "f"}), r"messages\[1\].tool_calls is text"),
    "a call without a function": (chat(USER, {**CALLING, "tool_calls": [{}]}), r"messages\[1\].tool_calls\[0\] is not"),
    "a call whose arguments are cut off": (
        chat(USER, {**CALLING, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}),
        r"messages\[1\].tool_calls\[0\].function.arguments is not valid JSON",
    ),
    "a call whose arguments are a list": (
        chat(USER, {**CALLING, "tool_calls": [{"function": {"name": "f", "arguments": "[]"}}]}),
        "function.arguments is not a JSON object",
    ),
    "a tool answer to another call": (
        chat(USER, CALLING, {"role": "tool", "tool_call_id": "c2", "content": "x"}, ANSWER),
        r'messages\[2\].tool_call_id is "c2"; the calls before it are c1',
    ),
    # order
    "no answer": (chat(USER), "has no assistant turn"),
    "a question last": (chat(USER, ANSWER, USER), r"messages\[2\] is the last turn and of role user"),
    "a late system text": (
        chat(USER, {"role": "system", "content": "s"}, ANSWER),
        r"messages\[1\] is a system message; only the first",
    ),
    "a tool answer without a call": (
        chat(USER, {"role": "tool", "content": "x"}, ANSWER),
        r"messages\[1\] is a tool message, but no assistant turn with tool_calls",
    ),
    "weight 0 everywhere": (chat(USER, {**ANSWER, "weight": 0}), "weight 0 on every assistant turn"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_bad_line_is_named(name: str, tmp_path: Path) -> None:
    line, reason = LINES[name]
    file = tmp_path / "train.jsonl"
    file.write_bytes(f"{GOOD}\n".encode() + (line.encode() if isinstance(line, str) else line) + f"\n{GOOD}".encode())
    with pytest.raises(DataError, match=reason) as caught:
        load_examples(str(file))
    assert caught.value.message == f"1 of 3 rows in {file} cannot be used"
    assert all(problem.startswith(f"{file}:2: ") for problem in caught.value.problems)


FILES: dict[str, tuple[str, bytes | None, str]] = {
    "missing": ("absent.jsonl", None, "does not exist"),
    "empty": ("a.jsonl", b"", "is empty"),
    "only blank lines": ("a.jsonl", b"\n  \n\n", "is empty"),
    "an unknown ending": ("a.xlsx", b"x", "unknown ending '.xlsx'"),
    "no ending": ("data", b"x", "has no ending"),
    "UTF-16": ("a.jsonl", GOOD.encode("utf-16"), "a.jsonl:1: is UTF-16"),
    "UTF-16 as JSON": ("a.json", f"[{GOOD}]".encode("utf-16"), "a.json:1: is UTF-16"),
    "JSON as JSONL": ("a.jsonl", f"[\n{GOOD},\n{GOOD}\n]".encode(), "spread over several lines"),
    "JSON that is cut off": ("a.json", f"[{GOOD}, {GOOD[:30]}".encode(), "a.json:2: is not valid JSON"),
    "JSON without its end": ("a.json", f"[{GOOD}".encode(), "the file is cut off"),
    "JSON with more behind it": ("a.json", f"[{GOOD}] x".encode(), "more text follows the array"),
    "JSON in latin-1": ("a.json", '[{"text":\n"\xe9"}]'.encode("latin-1"), "a.json:2: is not UTF-8"),
    "JSON with a bad row": (
        "a.json",
        f'[{GOOD}, {{"a": 1, "a": 2}}, {GOOD}]'.encode(),
        'a.json:2: has the key "a" twice',
    ),
    "JSON without rows": ("a.json", b'{"a": 1}', "is not an array of rows"),
    "JSON with two lists": ("a.json", b'{"a": [], "b": []}', "is not an array of rows"),
    "an empty array": ("a.json", b"[]", "is empty"),
    "CSV with a short row": ("a.csv", b"prompt,completion\na,b\nc\n", "a.csv:3: has 1 cell; the header has 2"),
    "CSV with an open quote": ("a.csv", b'prompt,completion\na,"b\n', "a.csv:2: is not valid CSV"),
    "CSV with a column twice": ("a.csv", b"prompt,prompt\na,b\n", "the column 'prompt' twice"),
    "CSV in latin-1": ("a.csv", "prompt,completion\na,\xe9\n".encode("latin-1"), "a.csv:2: is not UTF-8"),
    "CSV with bad JSON": ("a.csv", b"messages\n[{\n", "a.csv:2: column 'messages': is not valid JSON"),
    "CSV with a header only": ("a.csv", b"prompt,completion\n", "is empty"),
    "CSV with an empty answer": ("a.csv", b"prompt,completion\na,\n", "a.csv:2: completion is empty"),
    "Parquet that is none": ("a.parquet", b"not parquet at all", "cannot be read as Parquet"),
    "an empty Parquet file": ("a.parquet", b"", "is empty"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_named(name: str, tmp_path: Path) -> None:
    file, content, reason = FILES[name]
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=reason):
        load_examples(str(tmp_path / file))


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        load_examples(str(tmp_path))


@pytest.mark.parametrize("name", ["x" * 5000 + ".jsonl", "a\0b.jsonl"], ids=["too long", "null byte"])
def test_an_impossible_name_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"cannot be read|does not exist"):
        load_examples(name)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    with pytest.raises(DataError, match=r"loop.jsonl (cannot be read|does not exist)"):
        load_examples(str(tmp_path / "loop.jsonl"))


def test_all_problems_come_together_and_all_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join([GOOD, *(["{"] * 80), chat("a", "b")]))
    with pytest.raises(DataError, match="81 of 82 rows") as caught:
        load_examples(str(file))
    assert len(caught.value.problems) == 82
    assert caught.value.problems[-1].startswith(f"{file}:82: messages[1] is text")


OTHER_FORMATS: dict[str, tuple[dict[str, Any], str]] = {
    "prompt as a list": ({"prompt": [], "completion": "b"}, "prompt is an empty list"),
    "prompt as a number": ({"prompt": 1, "completion": "b"}, "prompt is a number"),
    "completion null": ({"prompt": "a", "completion": None}, "completion is null"),
    "output empty": ({"instruction": "a", "output": ""}, "output is empty"),
    "input a list": ({"instruction": "a", "input": [], "output": "b"}, "input is a list"),
    "history as text": ({"instruction": "a", "output": "b", "history": "c"}, "history is text"),
    "history without pairs": ({"instruction": "a", "output": "b", "history": [["c"]]}, r"history\[0\] is not a"),
    "an unknown sender": (
        {"conversations": [{"from": "bot2", "value": "a"}]},
        r'conversations\[0\].from is "bot2"; expected human',
    ),
    "a call that is no JSON": (
        {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "f()"}]},
        r"conversations\[1\].value of a function_call is not JSON",
    ),
    "a value of a wrong type": (
        {"conversations": [{"from": "human", "value": 1}, {"from": "gpt", "value": "b"}]},
        r"conversations\[0\].value is a number",
    ),
    "tools that are no JSON": (
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "tools": "["},
        "tools is not valid JSON",
    ),
    "conversations as text": ({"conversations": "a"}, "conversations is text; expected a list"),
    "text as a number": ({"text": 3}, "text is a number"),
    "text empty": ({"text": "  "}, "text is empty"),
}


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_a_bad_row_of_another_format_is_named(name: str, tmp_path: Path) -> None:
    row, reason = OTHER_FORMATS[name]
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=f"a.jsonl:1: .*({reason})"):
        load_examples(str(tmp_path / "a.jsonl"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["messages", "role", "content", "tool_calls", "function", "text", "from", "value", "tools"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
roles = st.sampled_from(["system", "user", "assistant", "tool", "function", "developer", "x"])
messages = st.lists(
    st.fixed_dictionaries(
        {"role": roles, "content": json_values},
        optional={"tool_calls": json_values, "weight": json_values, "function_call": json_values, "name": json_values},
    )
    | json_values,
    max_size=4,
)
rows = (
    json_values
    | st.fixed_dictionaries({"messages": messages}, optional={"tools": json_values, "functions": json_values})
    | st.fixed_dictionaries({"conversations": messages}, optional={"tools": json_values, "system": json_values})
    | st.fixed_dictionaries({"instruction": json_values, "output": json_values}, optional={"history": json_values})
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=rows)
def test_any_json_gives_examples_or_named_problems(row: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    try:
        examples = load_examples(str(tmp_path / "a.jsonl")).examples
    except DataError as error:
        problems, examples = error.problems, []
    assert examples or problems
    assert all(example.text or example.messages[-1]["role"] == "assistant" for example in examples)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), ending=st.sampled_from(["jsonl", "json", "csv", "tsv", "parquet", "txt"]))
def test_any_bytes_give_examples_or_one_error(content: bytes, ending: str, tmp_path: Path) -> None:
    (tmp_path / f"a.{ending}").write_bytes(content)
    try:
        loaded = load_examples(str(tmp_path / f"a.{ending}"))
    except DataError:
        return
    assert len(loaded.examples) == loaded.rows_read
