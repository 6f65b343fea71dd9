"""What a conversation must be to be trained on: each message by itself, then their order."""

from __future__ import annotations

import json
from typing import Any, cast

from residency.data.formats import Turn, kind, shown
from residency.data.json_rows import parse_json
from residency.data.messages import Message, ToolCall

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
MESSAGE_KEYS = {"role", "content", "name", "weight", "tool_calls", "tool_call_id", "function_call"}


def check_turns(turns: list[Turn], problems: list[str], *, must_train: bool) -> tuple[Message, ...]:
    """The turns as messages in one form: text content, `tool_calls` instead of `function_call`, no null keys.

    Whatever is wrong is added to `problems`; the messages are then of no use. With `must_train` at least one
    assistant turn has to carry loss.
    """
    before = len(problems)
    messages = [_check_message(turn, problems) for turn in turns]
    if len(problems) == before:
        _check_order(turns, messages, problems, must_train)
    return tuple(messages)


def check_tools(tools: Any, problems: list[str]) -> tuple[dict[str, Any], ...]:
    if tools is None:
        return ()
    if not isinstance(tools, list):
        problems.append(f"tools is {kind(tools)}; expected a list")
        return ()
    for i, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict):
            problems.append(f'tools[{i}] is not {{"type": "function", "function": {{"name", "parameters"}}}}')
        elif not isinstance(function.get("name"), str) or not function["name"]:
            problems.append(f"tools[{i}].function.name is {shown(function.get('name'))}; expected the function's name")
    return tuple(tools)


def _check_message(turn: Turn, problems: list[str]) -> Message:
    place, raw, text_place = turn
    if not isinstance(raw, dict):
        problems.append(f"{place} is {kind(raw)}; expected an object with role and content")
        return Message(role="user", content=None)
    # Parquet and OpenAI's own responses fill absent keys with null or an empty list.
    given = {key: value for key, value in raw.items() if value is not None and (value != [] or key == "content")}
    role = given.get("role")
    if role is None:
        problems.append(f"{place} has no role")
        return Message(role="user", content=None)
    if not isinstance(role, str) or role not in ROLES:
        problems.append(f"{place}.role is {shown(role)}; expected system, user, assistant or tool")
        return Message(role="user", content=None)
    for key in given.keys() - MESSAGE_KEYS:
        problems.append(f'{place} has the unknown key "{key}"; known are {", ".join(sorted(MESSAGE_KEYS))}')
    message = cast(Message, {"role": ROLES[role], "content": _content(text_place, given.get("content"), problems)})
    _add_names(place, role, given, message, problems)
    if role == "assistant":
        _check_assistant(turn, given, message, problems)
    else:
        for key in ("weight", "tool_calls", "function_call"):
            if key in given:
                problems.append(f"{place}.{key} stands on a {role} message; only an assistant message may have it")
        if message["content"] is None and given.get("content") is None:
            problems.append(f"{text_place} is {'null' if 'content' in raw else 'missing'}; expected text")
    return message


def _add_names(place: str, role: str, given: dict[str, Any], message: Message, problems: list[str]) -> None:
    for key in ("name", "tool_call_id"):
        if key not in given:
            continue
        if not isinstance(given[key], str):
            problems.append(f"{place}.{key} is {kind(given[key])}; expected text")
        elif key == "tool_call_id" and role != "tool":
            problems.append(f"{place}.tool_call_id stands on a {role} message; only a tool message may have it")
        else:
            message[key] = given[key]


def _content(place: str, content: Any, problems: list[str]) -> str | None:
    """Text as it stands; a list of text parts is joined."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        problems.append(f"{place} is {kind(content)}; expected text")
        return None
    if not content:
        problems.append(f"{place} is an empty list; expected text")
    texts = []
    for i, part in enumerate(content):
        part_type = part.get("type") if isinstance(part, dict) else None
        if part_type == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part_type, str) and part_type != "text":
            problems.append(f"{place}[{i}] is of type {shown(part_type)}; only text can be trained on")
        else:
            problems.append(f'{place}[{i}] is not {{"type": "text", "text": ...}}')
    return "".join(texts)


def _check_assistant(turn: Turn, given: dict[str, Any], message: Message, problems: list[str]) -> None:
    place, text_place = turn.place, turn.text_place
    weight = given.get("weight")
    if weight is not None:
        if isinstance(weight, bool) or weight not in (0, 1):
            problems.append(f"{place}.weight is {json.dumps(weight, default=str)[:40]}; expected 0 or 1")
        else:
            message["weight"] = int(weight)
    calls = given.get("tool_calls")
    if "function_call" in given:
        if calls is not None:
            problems.append(f"{place} has both tool_calls and function_call; function_call is the older name")
        calls = [{"function": given["function_call"]}]
    if calls is not None:
        if isinstance(calls, list):
            message["tool_calls"] = [
                _tool_call(f"{place}.tool_calls[{i}]", call, problems) for i, call in enumerate(calls)
            ]
        else:
            problems.append(f"{place}.tool_calls is {kind(calls)}; expected a list")
    elif given.get("content") is None:
        problems.append(f"{text_place} is null and there are no tool_calls: nothing to answer")
    elif message["content"] is not None and not message["content"].strip():
        problems.append(f"{text_place} is empty and there are no tool_calls: nothing to answer")


def _tool_call(place: str, call: Any, problems: list[str]) -> ToolCall:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        problems.append(f'{place} is not {{"type": "function", "function": {{"name", "arguments"}}}}')
        return ToolCall(function={"name": "", "arguments": "{}"})
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        problems.append(f"{place}.function.name is {shown(name)}; expected the function's name")
    if isinstance(arguments, dict):
        arguments = json.dumps(arguments, ensure_ascii=False)
    elif not isinstance(arguments, str):
        problems.append(f"{place}.function.arguments is {kind(arguments)}; expected a JSON object as text")
    else:
        parsed = parse_json(arguments)
        if parsed.problem or not isinstance(parsed.value, dict):
            problems.append(f"{place}.function.arguments {parsed.problem or 'is not a JSON object'}")
    checked = ToolCall(type="function", function={"name": str(name), "arguments": str(arguments)})
    if call.get("id") is not None:
        if isinstance(call["id"], str):
            checked["id"] = call["id"]
        else:
            problems.append(f"{place}.id is {kind(call['id'])}; expected text")
    return checked


def _check_order(turns: list[Turn], messages: list[Message], problems: list[str], must_train: bool) -> None:
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        problems.append("has no assistant turn: there is no answer to learn" if messages else "has no messages")
        return
    if roles[-1] != "assistant":
        problems.append(f"{turns[-1].place} is the last turn and of role {roles[-1]}; the last must be the assistant's")
    calls: dict[str, None] | None = None
    for i, message in enumerate(messages):
        if message["role"] == "system" and i > 0:
            problems.append(f"{turns[i].place} is a system message; only the first message may be one")
        if message["role"] == "assistant":
            calls = _open_calls(message)
        elif message["role"] == "tool":
            _check_tool_answer(turns[i].place, message, calls, problems)
        else:
            calls = None
    if must_train and all(message.get("weight") == 0 for message in messages if message["role"] == "assistant"):
        problems.append("has weight 0 on every assistant turn: nothing to train on")


def _open_calls(message: Message) -> dict[str, None] | None:
    return {call.get("id", ""): None for call in message["tool_calls"]} if "tool_calls" in message else None


def _check_tool_answer(place: str, message: Message, calls: dict[str, None] | None, problems: list[str]) -> None:
    if calls is None:
        problems.append(f"{place} is a tool message, but no assistant turn with tool_calls stands before it")
        return
    given = message.get("tool_call_id")
    if given is not None and given not in calls and "" not in calls:
        problems.append(f"{place}.tool_call_id is {shown(given)}; the calls before it are {', '.join(calls)}")
