"""Tool calls are found as the model's own chat template writes them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from residency.data.chat_text import ChatTemplate
from residency.data.messages import Message
from residency.data.render import renderer_for
from residency.data.templates import NAMED
from residency.inference.grammar import JSON_OPTIONS, Grammars
from residency.inference.tools import call_grammar, find_calls, learn_calls, plain_end
from tests.unit.inference.small import make_tokenizer

HERMES = NAMED["chatml"].jinja
TOOLS_SHOWN = "{%- if tools %}{{- '<|im_start|>system\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}"
TURNS = """{%- for m in messages %}{%- if m.role == 'assistant' and m.tool_calls %}{{- '<|im_start|>assistant\n' }}CALLS
{{- '<|im_end|>\n' }}{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def family(calls: str) -> str:
    return TOOLS_SHOWN + TURNS.replace("CALLS", calls)


FAMILIES = {
    "hermes": HERMES,
    "llama3": family("""{%- set c = m.tool_calls[0].function %}
{{- '{"name": "' + c.name + '", "parameters": ' + c.arguments | tojson + '}' }}"""),
    "mistral": family("""{{- '[TOOL_CALLS] [' }}{%- for c in m.tool_calls %}{{- c.function | tojson }}
{{- ', ' if not loop.last else '' }}{%- endfor %}{{- ']' }}"""),
    "newer mistral": family("""{%- for c in m.tool_calls %}
{{- '[TOOL_CALLS]' + c.function.name + '[ARGS]' + c.function.arguments | tojson }}{%- endfor %}"""),
    "deepseek": family("""{{- '<|calls|>' }}{%- for c in m.tool_calls %}
{{- '<|call|>function<|sep|>' + c.function.name + '\n```json\n' + c.function.arguments | tojson + '\n```<|end|>' }}
{%- endfor %}"""),
    "thinking first": family("""{{- '<think>\n\n</think>\n\n' }}{%- for c in m.tool_calls %}
{{- '<tool_call>\n{"name": "' + c.function.name + '", "arguments": ' + c.function.arguments | tojson }}
{{- '}\n</tool_call>' }}{%- endfor %}"""),
}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "[TOOL_CALLS]", "<|call|>", "<|im_end|>"]
NAMES = {"light", "heat"}


def template_of(name: str) -> ChatTemplate:
    return renderer_for(make_tokenizer(SPECIAL, FAMILIES[name])).template


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": "call00001", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def written(template: ChatTemplate, *calls: dict[str, Any]) -> str:
    """What the template writes for an answer with these calls."""
    question = Message(role="user", content="Question")
    answer: Any = {"role": "assistant", "content": None, "tool_calls": list(calls)}
    prompt = template.text([question], ask=True)
    return template.text([question, answer], ask=False)[len(prompt) :].partition("<|im_end|>")[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_what_the_template_writes_is_read_back(name: str) -> None:
    template = template_of(name)
    shape = learn_calls(template)
    assert shape is not None
    arguments = {"room": "kitchen", "on": True, "note": 'a "quoted" {brace}\n'}
    _, calls = find_calls(written(template, call("light", arguments)), shape, NAMES)
    assert [(one["name"], json.loads(one["arguments"])) for one in calls] == [("light", arguments)]


@pytest.mark.parametrize("name", ["hermes", "mistral", "newer mistral", "deepseek", "thinking first"])
def test_so_are_several_calls(name: str) -> None:
    template = template_of(name)
    shape = learn_calls(template)
    assert shape is not None
    text = written(template, call("light", {"on": True}), call("heat", {"degrees": 20}))
    _, calls = find_calls(text, shape, NAMES)
    assert [one["name"] for one in calls] == ["light", "heat"]


def test_text_before_a_call_stays_text() -> None:
    shape = learn_calls(template_of("hermes"))
    assert shape is not None
    text = 'Let me see.\n<tool_call>\n{"name": "light", "arguments": {}}\n</tool_call>'
    assert find_calls(text, shape, NAMES)[0] == "Let me see."


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "text", ["", "Just an answer.", '{"name": "unknown", "arguments": {}}', "<tool_call>{", "[1, 2]"]
)
def test_what_is_no_call_of_an_offered_function_stays_text(name: str, text: str) -> None:
    shape = learn_calls(template_of(name))
    assert shape is not None
    assert find_calls(text, shape, NAMES) == (text, [])


@pytest.mark.parametrize("name", FAMILIES)
def test_brackets_without_end_are_no_call(name: str) -> None:
    shape = learn_calls(template_of(name))
    assert shape is not None
    text = shape.mark + "[" * 5000
    assert find_calls(text, shape, NAMES) == (text, [])


@pytest.mark.parametrize("name", FAMILIES)
def test_no_part_of_a_call_is_streamed_as_text(name: str) -> None:
    template = template_of(name)
    shape = learn_calls(template)
    assert shape is not None
    call_text = written(template, call("light", {"on": True}))
    said = "Let me see, [1] <b>.\n" if shape.mark else ""
    text = said + call_text[call_text.index(shape.preamble + shape.mark) :]
    content, calls = find_calls(text, shape, NAMES)
    assert calls
    for end in range(len(text) + 1):
        shown = text[: plain_end(text[:end], shape)]
        assert content.startswith(shown)
        assert text[:end].startswith(shown)


ON = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": False}
TOOLS = [
    {"type": "function", "function": {"name": "light", "parameters": ON}},
    {"type": "function", "function": {"name": "heat"}},
]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("required", [True, False], ids=["required", "free"])
def test_the_grammar_allows_what_the_template_writes_and_no_other_arguments(name: str, required: bool) -> None:
    tokenizer = make_tokenizer(SPECIAL, FAMILIES[name])
    template = renderer_for(tokenizer).template
    shape = learn_calls(template)
    assert shape is not None
    special = {str(token): id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    grammar = call_grammar(shape, TOOLS, special, JSON_OPTIONS, required=required, parallel=True, answer=None)

    def allowed(text: str) -> bool:
        constraint = Grammars(tokenizer, len(tokenizer), [tokenizer.eos_token_id]).lark(grammar, "tools")
        for id in tokenizer.encode(text):
            if not constraint.allowed(len(tokenizer))[id]:
                return False
            constraint.consume(id)
        return bool(constraint.allowed(len(tokenizer))[tokenizer.eos_token_id])

    start = shape.preamble + shape.mark
    good = written(template, call("light", {"on": True}))
    good = good[good.index(start) :]
    assert allowed(good)
    assert not allowed(good.replace("true", "7"))
    assert not allowed(good.replace("light", "door"))
    assert allowed("Just an answer.") is not required
