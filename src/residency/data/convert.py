"""The same rows in another format; whatever the other format cannot hold is refused, never left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from residency import durable
from residency.data.messages import Example, Message
from residency.data.validate import load_examples
from residency.errors import DataError
from residency.wording import counted

Target = Literal["chat", "prompt_completion", "instruction", "sharegpt"]
SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def convert_file(source: str, out: Path, target: Target) -> int:
    """Writes every row of `source` as `target` into `out` (JSONL) and returns how many.

    Raises DataError with every row that `target` cannot hold.
    """
    loaded = load_examples(source)
    lines, problems = [], []
    for example in loaded.examples:
        try:
            lines.append(json.dumps(convert(example, target), ensure_ascii=False) + "\n")
        except DataError as error:
            problems.append(f"{example.origin}: {error.message}")
    if problems:
        lost = f"{len(problems):,} of {counted(loaded.rows_read, 'row')}"
        raise DataError(f"{target} has no place for {lost} of {source}",
                        param=source, problems=problems,
                        hint="--to chat holds everything; nothing is left out for you")  # fmt: skip
    durable.write_text(out, "".join(lines))
    return len(lines)


def convert(example: Example, target: Target) -> dict[str, Any]:
    """One row as `target`. Raises DataError where something would be lost."""
    if example.text is not None:
        raise DataError("is plain text, which has no turns")
    match target:
        case "chat":
            return {"messages": [dict(message) for message in example.messages], **tools_of(example)}
        case "sharegpt":
            return to_sharegpt(example)
        case "prompt_completion":
            return to_pair(example)
        case "instruction":
            return to_instruction(example)


def tools_of(example: Example) -> dict[str, Any]:
    return {"tools": list(example.tools)} if example.tools else {}


def to_sharegpt(example: Example) -> dict[str, Any]:
    turns = []
    for message in example.messages:
        refuse(message, {"role", "content", "tool_calls"})
        if calls := message.get("tool_calls"):
            if message["content"]:
                raise DataError("has a turn with text and tool calls, which sharegpt keeps apart")
            turns.append({"from": "function_call", "value": json.dumps([dict(call["function"]) for call in calls])})
        else:
            turns.append({"from": SPEAKERS[message["role"]], "value": message["content"] or ""})
    tools = {"tools": json.dumps(list(example.tools), ensure_ascii=False)} if example.tools else {}
    return {"conversations": turns, **tools}


def to_pair(example: Example) -> dict[str, Any]:
    if [message["role"] for message in example.messages] != ["user", "assistant"] or example.tools:
        raise DataError("is more than one question and one answer")
    for message in example.messages:
        refuse(message, {"role", "content"})
    return {"prompt": example.messages[0]["content"], "completion": example.reference}


def to_instruction(example: Example) -> dict[str, Any]:
    system = [message["content"] for message in example.messages if message["role"] == "system"]
    turns = [message for message in example.messages if message["role"] != "system"]
    roles = [message["role"] for message in turns]
    if roles != ["user", "assistant"] * (len(turns) // 2) or example.tools:
        raise DataError("does not alternate between user and assistant, or has tools")
    for message in example.messages:
        refuse(message, {"role", "content"})
    texts = [message["content"] for message in turns]
    row: dict[str, Any] = {"instruction": texts[-2], "input": "", "output": texts[-1]}
    if system:
        row["system"] = system[0]
    if len(texts) > 2:
        row["history"] = [[texts[i], texts[i + 1]] for i in range(0, len(texts) - 2, 2)]
    return row


def refuse(message: Message, known: set[str]) -> None:
    if lost := message.keys() - known:
        raise DataError(f"has a {message['role']} turn with {', '.join(sorted(lost))}")
