"""The five row formats, and how each becomes turns of a conversation.

    chat                {"messages": [{"role", "content", "weight"?, "tool_calls"? ...}], "tools"?}   (OpenAI)
    prompt_completion   {"prompt", "completion"}                                                  (OpenAI, older)
    instruction         {"instruction", "input"?, "output", "system"?, "history"?: [[user, assistant] ...]}  (Alpaca)
    sharegpt            {"conversations": [{"from", "value"}], "system"?, "tools"?}                     (ShareGPT)
    text                {"text"}

A converter only moves values to their place; whether they are usable is for `turns` to say. Keys it does not know
stay in the row, where graders reach them.
"""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple, get_args

from residency.config.methods import PREFERENCES_LATER, REINFORCEMENT_LATER
from residency.data.json_rows import parse_json

Format = Literal["chat", "prompt_completion", "instruction", "sharegpt", "text"]
FORMATS: tuple[Format, ...] = get_args(Format)
KEYS: dict[Format, tuple[str, ...]] = {
    "chat": ("messages",),
    "sharegpt": ("conversations",),
    "prompt_completion": ("prompt", "completion"),
    "instruction": ("instruction", "output"),
    "text": ("text",),
}
"""The keys a row of each format has; where several formats fit, the first one counts."""

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}


class Turn(NamedTuple):
    """A message as yet unchecked, in OpenAI's shape, and its place in the row."""

    place: str
    message: Any
    text_place: str
    """Where the message's text stands: `messages[0].content`, or just `completion`."""


class Converted(NamedTuple):
    turns: list[Turn]
    tools: Any
    problems: list[str]


def detect(value: dict[str, Any]) -> Format | None:
    """The format of a row by its keys; null where none fits."""
    return next((name for name, keys in KEYS.items() if all(key in value for key in keys)), None)


def for_another_method(value: dict[str, Any]) -> str | None:
    """What a row that cannot be used is for, and how to train on it all the same; null where its keys do not tell."""
    chosen = next((key for key in ("chosen", "preferred_output") if key in value), None)
    rejected = next((key for key in ("rejected", "non_preferred_output") if key in value), None)
    if chosen and rejected:
        return f"{PREFERENCES_LATER}; for sft on the better answers write each row as prompt and completion ({chosen})"
    if chosen or rejected:
        lacking = "a rejected" if chosen else "a chosen"
        return f"a preference also has {lacking} answer, and {PREFERENCES_LATER}; for sft name prompt and completion"
    if "completions" in value and "labels" in value:
        return "rows that judge single steps train reward models, which are not here; write prompt and completion"
    if "prompt" in value and "completion" not in value:
        return f"rows without an answer are for reinforcement, and {REINFORCEMENT_LATER}; for sft add a completion"
    return None


def to_messages(value: dict[str, Any], format: Format) -> Converted:
    """The turns of a row (none for `text`), its tools, and what kept it from being converted."""
    missing = [key for key in KEYS[format] if key not in value]
    if missing:
        found = ", ".join(value) or "none"
        return Converted(
            [], None, [f'has no "{key}", which a {format} row needs (its keys: {found})' for key in missing]
        )
    match format:
        case "chat":
            return _from_chat(value)
        case "prompt_completion":
            return _from_pair(value)
        case "instruction":
            return _from_instruction(value)
        case "sharegpt":
            return _from_sharegpt(value)
        case "text":
            return Converted([], None, [])


def _from_chat(value: dict[str, Any]) -> Converted:
    messages = value["messages"]
    problems: list[str] = []
    if not isinstance(messages, list):
        return Converted([], None, [f"messages is {kind(messages)}; expected a list"])
    if not isinstance(value.get("parallel_tool_calls"), bool | None):
        problems.append(f"parallel_tool_calls is {kind(value['parallel_tool_calls'])}; expected true or false")
    tools = value.get("tools")
    functions = value.get("functions")
    if functions is not None:
        if tools is not None:
            problems.append("has both tools and functions; functions is the older name of the same")
        elif isinstance(functions, list):
            tools = [{"type": "function", "function": function} for function in functions]
        else:
            problems.append(f"functions is {kind(functions)}; expected a list")
    return Converted(
        [Turn(f"messages[{i}]", message, f"messages[{i}].content") for i, message in enumerate(messages)],
        tools,
        problems,
    )


def _from_pair(value: dict[str, Any]) -> Converted:
    return Converted(
        [_turn("prompt", "user", value["prompt"]), _turn("completion", "assistant", value["completion"])], None, []
    )


def _turn(place: str, role: str, text: Any) -> Turn:
    return Turn(place, {"role": role, "content": text}, place)


def _from_instruction(value: dict[str, Any]) -> Converted:
    turns: list[Turn] = []
    problems: list[str] = []
    if value.get("system"):
        turns.append(_turn("system", "system", value["system"]))
    history = value.get("history")
    if history is None:
        history = []
    if not isinstance(history, list):
        problems.append(f"history is {kind(history)}; expected a list of [user, assistant] pairs")
        history = []
    for i, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2:
            problems.append(f"history[{i}] is not a [user, assistant] pair")
            continue
        turns.append(_turn(f"history[{i}][0]", "user", pair[0]))
        turns.append(_turn(f"history[{i}][1]", "assistant", pair[1]))
    instruction, more = value["instruction"], value.get("input")
    if more is not None and not isinstance(more, str):
        problems.append(f"input is {kind(more)}; expected text")
    elif more and isinstance(instruction, str):
        instruction = f"{instruction}\n\n{more}"
    turns.append(_turn("instruction", "user", instruction))
    turns.append(_turn("output", "assistant", value["output"]))
    return Converted(turns, None, problems)


def _from_sharegpt(value: dict[str, Any]) -> Converted:
    conversations = value["conversations"]
    problems: list[str] = []
    if not isinstance(conversations, list):
        return Converted([], None, [f"conversations is {kind(conversations)}; expected a list"])
    turns = []
    if value.get("system"):
        turns.append(_turn("system", "system", value["system"]))
    for i, turn in enumerate(conversations):
        place = f"conversations[{i}]"
        if isinstance(turn, dict) and ("from" in turn or "value" in turn):
            turns.append(Turn(place, _sharegpt_message(place, turn, problems), f"{place}.value"))
        else:
            turns.append(Turn(place, turn, f"{place}.content"))
    return Converted(turns, _sharegpt_tools(value.get("tools"), problems), problems)


def _sharegpt_message(place: str, turn: dict[str, Any], problems: list[str]) -> Any:
    sender, text = turn.get("from"), turn.get("value")
    rest = {key: other for key, other in turn.items() if key not in ("from", "value")}
    if not isinstance(sender, str) or sender not in SHAREGPT_ROLES:
        problems.append(f"{place}.from is {shown(sender)}; expected {', '.join(SHAREGPT_ROLES)}")
        return None
    if sender != "function_call":
        return {"role": SHAREGPT_ROLES[sender], "content": text, **rest}
    calls, problem = parse_json(text) if isinstance(text, str) else (text, None)
    calls = calls if isinstance(calls, list) else [calls]
    if problem or not all(isinstance(call, dict) for call in calls):
        problems.append(f'{place}.value of a function_call is not JSON with "name" and "arguments"')
        return None
    return {"role": "assistant", "content": None, "tool_calls": [{"function": call} for call in calls], **rest}


def _sharegpt_tools(tools: Any, problems: list[str]) -> Any:
    """The tools in OpenAI's shape; ShareGPT files hold them as JSON text, each often without its "function" frame."""
    if isinstance(tools, str):
        if not tools.strip():
            return None
        tools, problem = parse_json(tools)
        if problem:
            problems.append(f"tools {problem}")
            return None
    if not isinstance(tools, list):
        return tools
    return [
        {"type": "function", "function": tool} if isinstance(tool, dict) and "function" not in tool else tool
        for tool in tools
    ]


def kind(value: Any) -> str:
    """What a JSON value is, in words for an error."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list() | tuple():
            return "a list"
        case dict():
            return "an object"
    return f"a {type(value).__name__}"


def shown(value: Any) -> str:
    """The value itself where it is short text, else what it is."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) and len(value) <= 40 else kind(value)
