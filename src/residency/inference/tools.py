"""Tool calls as the model's chat template writes them: learned from the template, found again in answers.

Two kinds are known. JSON calls are objects with the name and the arguments in them, behind a mark or none, one by one
or in a list: Hermes and Qwen, Llama 3, Mistral, Granite, Phi 4 and Residency's own templates. Named calls are a mark,
the name, something between, and the arguments as JSON: newer Mistral models, DeepSeek.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from residency.data.chat_text import CALL, QUESTION, ChatTemplate
from residency.data.messages import Function
from residency.errors import TemplateError
from residency.inference.text import overlap

NAME = "probe_call"
ARGUMENTS = re.compile(r'\{\s*"probe_key"\s*:\s*1\s*\}')
DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class CallShape:
    """`opening name between arguments closing`; for JSON calls opening and closing hold the object's own text."""

    preamble: str
    """What stands once before all calls."""
    mark: str
    """What a call begins with, before any JSON; empty where nothing tells a call from text but its form."""
    json_calls: bool
    opening: str
    between: str
    closing: str

    def call_text(self, name: str) -> tuple[str, str]:
        """What stands before and after the arguments of a call of `name`."""
        return self.opening + (json.dumps(name)[1:-1] if self.json_calls else name) + self.between, self.closing


def learn_calls(template: ChatTemplate) -> CallShape | None:
    """None where the template writes no tool calls, or in none of the known forms."""
    if not template.writes_tool_calls:
        return None
    try:
        prompt = template.text([QUESTION], ask=True)
        full = template.text([QUESTION, CALL], ask=False)
    except TemplateError:
        return None
    answer = full[len(prompt) :] if full.startswith(prompt) else full[full.rindex("Question") + len("Question") :]
    name, arguments = answer.find(NAME), ARGUMENTS.search(answer)
    if name < 0 or arguments is None or arguments.start() < name:
        return None
    end = max((place for token in template.end_tokens if (place := answer.rfind(token)) >= arguments.end()), default=-1)
    before, between = answer[:name], answer[name + len(NAME) : arguments.start()]
    closing = answer[arguments.end() : end if end >= 0 else None].rstrip()
    inside = re.search(r'[\[{][^\w<]*"(type|name|function|id)".*$', before, re.DOTALL)
    words = before[: inside.start() if inside else len(before)].split()
    mark = words[-1] if words else ""
    if not inside and not mark:
        return None
    opening, preamble = before[before.rindex(mark) :] if mark else before.lstrip(), ""
    if not inside and (repeated := _repeated(template, before)) and len(repeated) < len(mark):
        preamble, mark = mark[: -len(repeated)], repeated
        opening = mark
    return CallShape(preamble, mark, bool(inside), opening, between, closing)


def _repeated(template: ChatTemplate, before: str) -> str:
    """What of the text before a first call's name stands before a second one's too; empty where there can be none."""
    try:
        full = template.text([QUESTION, {**CALL, "tool_calls": [*CALL["tool_calls"]] * 2}], ask=False)
    except TemplateError:
        return ""
    between = full[: full.rfind(NAME)]
    same = next((n for n in range(len(before), 0, -1) if between.endswith(before[-n:])), 0)
    return before[len(before) - same :].lstrip()


def find_calls(text: str, shape: CallShape, names: Collection[str]) -> tuple[str, list[Function]]:
    """The text before the calls, and the calls of functions in `names`. What is no whole call of one stays text."""
    start = text.find(shape.mark) if shape.mark else len(text) - len(text.lstrip())
    calls: list[Function] = []
    place = start
    while 0 <= place < len(text):
        found = _call_at(text, place + len(shape.mark), shape)
        if found is None or not all(call["name"] in names for call in found[0]):
            return text, []
        calls += found[0]
        place = text.find(shape.mark, found[1]) if shape.mark else -1
    return (text[:start].removesuffix(shape.preamble).rstrip(), calls) if calls else (text, [])


def plain_end(text: str, shape: CallShape) -> int:
    """How much of an unfinished answer is text for certain, and no call or the beginning of one."""
    if shape.mark:
        found, first = text.find(shape.mark), shape.preamble + shape.mark
        before = text[: found if found >= 0 else len(text) - overlap(text, first)]
        return len(before.removesuffix(shape.preamble).rstrip())
    return 0 if text.lstrip()[:1] in ("", "{", "[") else len(text.rstrip())


def _call_at(text: str, place: int, shape: CallShape) -> tuple[list[Function], int] | None:
    """The calls behind a mark, and where they end."""
    if not shape.json_calls:
        end = text.find(shape.between, place) if shape.between else -1
        value, stop = _json_at(text, end + len(shape.between)) if end >= 0 else (None, 0)
        return ([_function(text[place:end], value)], stop) if isinstance(value, dict) else None
    value, stop = _json_at(text, place)
    calls = []
    for one in value if isinstance(value, list) else [value]:
        one = one.get("function", one) if isinstance(one, dict) else None
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            return None
        calls.append(_function(one["name"], one.get("arguments", one.get("parameters", {}))))
    return (calls, stop) if calls else None


def _json_at(text: str, place: int) -> tuple[Any, int]:
    while place < len(text) and text[place].isspace():
        place += 1
    try:
        value, end = DECODER.raw_decode(text, place)
    except (ValueError, RecursionError):  # a model that repeats itself opens brackets without end
        return None, place
    return value, end


def _function(name: str, arguments: Any) -> Function:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    whole = text.encode(errors="surrogatepass").decode(errors="replace")  # "\\ud800" is JSON, but no character
    return Function(name=name.strip(), arguments=whole)


def call_grammar(
    shape: CallShape,
    tools: Sequence[dict[str, Any]],
    special_ids: dict[str, int],
    options: dict[str, Any],
    *,
    required: bool,
    parallel: bool,
    answer: dict[str, Any] | None,
) -> str:
    """A Lark grammar of answers that call `tools` with arguments of their schemas.

    Unless `required`, an answer may also be text, or JSON of the schema `answer`; text may stand before a call.
    """
    rules, names = [], []
    for number, tool in enumerate(tools):
        before, after = shape.call_text(tool["function"]["name"])
        schema = (tool["function"].get("parameters") or {"type": "object"}) | {"x-guidance": options}
        names.append(f"call_{number}")
        rest = f"%json {json.dumps(schema)} {literal(after, special_ids)}"
        rules.append(f"call_{number}: {literal(before[len(shape.mark) :], special_ids)} {rest}")
    one = "(" + " | ".join(names) + ")"
    mark, first = literal(shape.mark, special_ids), literal(shape.preamble + shape.mark, special_ids)
    head = re.split("|".join(map(re.escape, special_ids)) or "$^", shape.mark)[0]
    again = f'("\\n"? {mark} {one})*' if parallel and shape.mark else ""
    if required:
        start = f"start: {first} {one} {again}"
    elif answer is not None:
        start = f"start: {first} {one} {again} | answer\nanswer: %json {json.dumps(answer | {'x-guidance': options})}"
    elif head:  # a lexeme cannot hold special tokens, so it ends at the first
        rest = literal(shape.mark[len(head) :], special_ids)
        until = f"until[lazy]: /(.|\\n)*/ {json.dumps(head)}"
        start = f"start: TEXT | until {rest} {one} {again}\n{until}\nTEXT: /(.|\\n)*/"
    elif shape.mark:
        start = f"start: TEXT ({mark} {one} {again})?\nTEXT: /(.|\\n)*/"
    else:
        start = f"start: TEXT | {one}\nTEXT: /[^{{\\[](.|\\n)*/"
    return "\n".join(["%llguidance {}", start, *rules])


def literal(text: str, special_ids: dict[str, int]) -> str:
    """`text` in Lark; special tokens, which no string matches, by their ids."""
    if not text:
        return ""
    pattern = "|".join(re.escape(token) for token in sorted(special_ids, key=len, reverse=True))
    parts = re.split(f"({pattern})", text) if pattern else [text]
    return " ".join(f"<[{special_ids[part]}]>" if part in special_ids else json.dumps(part) for part in parts if part)
