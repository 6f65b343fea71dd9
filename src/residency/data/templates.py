"""Chat templates a user may name for a base model that has none."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from residency.errors import TemplateError

# The model's start token is written where it has one of its own: GPT-2's family uses one token for start and end.
START = """\
{%- if bos_token and bos_token not in [eos_token, '<|endoftext|>', '<|im_start|>'] %}{{- bos_token }}{%- endif %}
"""

TOOLS = """\
{%- macro tool_list() %}
    {{- 'You can call these functions. To call one, write its name and arguments as JSON in <tool_call> tags:\\n' }}
    {{- '<tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>\\n<tools>\\n' }}
    {%- for tool in tools %}{{- tool | tojson + '\\n' }}{%- endfor %}
    {{- '</tools>' }}
{%- endmacro %}
{%- macro body(message) %}
    {{- message.content or '' }}
    {%- for call in message.tool_calls or [] %}
        {{- '\\n' if message.content or not loop.first else '' }}
        {{- '<tool_call>\\n{"name": ' + call.function.name | tojson + ', "arguments": ' }}
        {{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}
        {{- '}\\n</tool_call>' }}
    {%- endfor %}
{%- endmacro %}
"""

TURNS = """\
{%- if tools and messages[0].role != 'system' %}{{- open('system') + tool_list() + close }}{%- endif %}
{%- for message in messages %}
    {{- open(message.role) + body(message) }}
    {%- if tools and loop.first and message.role == 'system' %}{{- '\\n\\n' + tool_list() }}{%- endif %}
    {{- close }}
{%- endfor %}
{%- if add_generation_prompt %}{{- open('assistant') }}{%- endif %}
"""

CHATML = (
    START
    + TOOLS
    + "{%- macro open(role) %}{{- '<|im_start|>' + role + '\\n' }}{%- endmacro %}\n{%- set close = '<|im_end|>\\n' %}\n"
    + TURNS
)

LLAMA3 = (
    START
    + TOOLS
    + "{%- macro open(role) %}{{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}{%- endmacro %}\n"
    + "{%- set close = '<|eot_id|>' %}\n"
    + TURNS
)


@dataclass(frozen=True, slots=True)
class NamedTemplate:
    jinja: str
    special_tokens: tuple[str, ...]
    """Tokens the tokenizer must hold whole; those it lacks are to be added to it."""
    end_of_turn: str
    """What ends an answer; empty where it is the tokenizer's own end-of-sequence token."""


NAMED = {
    "chatml": NamedTemplate(CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "llama3": NamedTemplate(LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|eot_id|>"),
}


def resolve_template(name_or_path: str) -> NamedTemplate:
    """`chatml`, `llama3`, or a Jinja file in the form transformers reads (`tokenizer.apply_chat_template`).

    Raises TemplateError for an unknown name, and for a file that is no working template or ends no answer.
    """
    if name_or_path in NAMED:
        return NAMED[name_or_path]
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        raise TemplateError(
            f"model.chat_template is {name_or_path!r}: no template has this name, and there is no such file",
            param="model.chat_template",
            hint=f"write {', '.join(NAMED)}, or the path of a Jinja file",
        )
    try:
        jinja = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"{name_or_path} cannot be read: {error}", param="model.chat_template") from error
    return _inspect(name_or_path, jinja)


def _inspect(name: str, jinja: str) -> NamedTemplate:
    """Finds the template's control tokens by rendering a conversation whose texts and model tokens are known."""
    answer, bos, eos = "ANSWERTEXT", "BOSTOKEN", "EOSTOKEN"
    rendered = _render(name, jinja, [("user", "QUESTION"), ("assistant", answer)], bos, eos)
    _, found, tail = rendered.rpartition(answer)
    tail = tail.strip()
    if not found or not tail:
        raise TemplateError(
            f"{name} writes {'nothing after an answer' if found else 'no answers'}: the model would not learn to stop",
            param="model.chat_template",
            hint="write {{ eos_token }} or a token such as <|im_end|> after an assistant's content",
        )
    markers = dict.fromkeys(re.findall(r"<[^<>\s]+>", rendered))
    if tail.startswith(eos):
        return NamedTemplate(jinja, tuple(markers), "")
    end = re.match(r"<[^<>\s]+>|\[[^\[\]\s]+\]", tail)
    if not end:
        raise TemplateError(
            f"{name} ends an answer with {tail!r}, which is neither the eos token nor a token such as <|im_end|>",
            param="model.chat_template",
            hint="write {{ eos_token }} right after an assistant's content",
        )
    return NamedTemplate(jinja, tuple(dict.fromkeys([*markers, end[0]])), end[0])


def _render(name: str, jinja: str, turns: list[tuple[str, str]], bos: str, eos: str) -> str:
    import jinja2
    from transformers.utils.chat_template_utils import render_jinja_template

    chat = [{"role": role, "content": content} for role, content in turns]
    try:
        texts, _ = render_jinja_template([chat], chat_template=jinja, bos_token=bos, eos_token=eos)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise TemplateError(f"{name} is no working chat template: {error}", param="model.chat_template") from error
    return str(texts[0])
