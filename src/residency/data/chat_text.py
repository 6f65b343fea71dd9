"""What the tokenizer's chat template writes: the text of a prompt, and of the answer that follows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from residency.data.messages import Example, Function, Message
from residency.errors import TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HINT = "name another template with model.chat_template (chatml, llama3, or a Jinja file)"


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A tokenizer's template and what `inspect_template` saw it do."""

    tokenizer: Any
    end_tokens: tuple[str, ...] = ()
    """What an answer ends with: a plain one, and a tool call where that differs."""
    writes_tools: bool = False
    writes_tool_calls: bool = False
    arguments_as_text: bool = False
    """Whether it wants a call's arguments as JSON text rather than as an object."""

    def text(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), *, ask: bool) -> str:
        """The conversation as text; with `ask` up to where the next answer begins. Raises TemplateError."""
        import jinja2

        chat = [self._plain(message) for message in messages]
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    chat, tools=list(tools) or None, add_generation_prompt=ask, tokenize=False
                )
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise TemplateError(f"the chat template refuses the conversation: {error}", hint=HINT) from error

    def turn(self, example: Example, index: int) -> tuple[str, str]:
        """The prompt that asks for message `index`, and that answer up to its end token.

        Raises TemplateError where the template asks for an answer otherwise than it writes one, or leaves out a part.
        """
        messages, number = example.messages[: index + 1], index + 1
        prompt = self.text(messages[:-1], example.tools, ask=True) if index else ""
        full = self.text(messages, example.tools, ask=False)
        start = len(prompt) if full.startswith(prompt) else self._moved_answer(prompt, full, messages, example.tools)
        answer = full[start:]
        end = max((answer.rfind(token) + len(token) for token in self.end_tokens if token in answer), default=0)
        if not end:
            raise TemplateError(f"the chat template does not end message {number} with {self.end_tokens[0]}", hint=HINT)
        # A template may trim white space and may have begun the answer itself ("<think>"), but must keep the rest.
        if _squeezed(messages[-1]["content"]) not in _squeezed(prompt[-32:] + answer):
            raise TemplateError(f"the chat template leaves out a part of message {number}, an answer", hint=HINT)
        shown = _squeezed(prompt)
        for i, message in enumerate(messages[:-1], 1):
            if message["role"] in ("system", "user") and _squeezed(message["content"]) not in shown:
                raise TemplateError(f"the chat template leaves out message {i}, of role {message['role']}", hint=HINT)
        return prompt, answer[:end]

    def _moved_answer(
        self, prompt: str, full: str, messages: Sequence[Message], tools: Sequence[dict[str, Any]]
    ) -> int:
        """Where the answer starts, if its presence changes what stands before the question (Mistral's system text).

        Its place is found by exchanging the answer; before it must stand what the prompt has from the question on.
        """
        content = (messages[-1]["content"] or "").strip()
        question = (messages[-2]["content"] or "").strip() if len(messages) > 1 else ""
        if content and question and question in prompt:
            other: Message = {**messages[-1], "content": "b" if content[0] == "a" else "a"}
            before = _common_start(full, self.text([*messages[:-1], other], tools, ask=False))
            header = prompt[prompt.rindex(question) :]
            found = before.rfind(header)
            if found >= 0 and not before[found + len(header) :].strip():
                return found + len(header)
        raise TemplateError(
            f"the chat template asks for message {len(messages)} otherwise than it writes it: "
            f"the prompt ends with {prompt[-30:]!r}",
            hint=HINT,
        )

    def check_tools(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> None:
        """Raises TemplateError where there are tools or calls that the template would pass over."""
        if tools and not self.writes_tools:
            raise TemplateError("the row has tools, which the chat template does not show to the model", hint=HINT)
        if not self.writes_tool_calls and any("tool_calls" in message for message in messages):
            raise TemplateError("the row has tool_calls, which the chat template does not write", hint=HINT)

    def _plain(self, message: Message) -> dict[str, Any]:
        """The message as templates expect it: no weight, content always text, a call's arguments as an object."""
        plain: dict[str, Any] = {key: value for key, value in message.items() if key != "weight"}
        plain["content"] = message["content"] or ""
        if "tool_calls" in message and not self.arguments_as_text:
            plain["tool_calls"] = [
                {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
                for call in message["tool_calls"]
            ]
        return plain


QUESTION = Message(role="user", content="Question")
ANSWER = Message(role="assistant", content="ANSWERTEXT")
FUNCTION: Function = {"name": "probe_call", "arguments": '{"probe_key": 1}'}
CALL = Message(
    role="assistant", content=None, tool_calls=[{"id": "call00001", "type": "function", "function": FUNCTION}]
)
TOOL = {
    "type": "function",
    "function": {"name": "probe_tool", "description": "Probe", "parameters": {"type": "object", "properties": {}}},
}


def inspect_template(tokenizer: PreTrainedTokenizerBase) -> ChatTemplate:
    """Learns from a few trial conversations how the tokenizer's template ends answers and treats tools.

    Raises TemplateError where it does not end an answer with one special token.
    """
    template = ChatTemplate(tokenizer)
    tail = template.text([QUESTION, ANSWER], ask=False).rpartition("ANSWERTEXT")[2]
    tools_text = _attempt(template, [QUESTION], [TOOL])
    call_text = _attempt(template, [QUESTION, CALL])
    as_text = "probe_call" not in call_text or "'probe_key'" in call_text  # the latter: printed as Python prints it
    if as_text:
        call_text = _attempt(replace(template, arguments_as_text=True), [QUESTION, CALL])
    end = _end_token(tokenizer, tail)
    call_end = _call_end_token(tokenizer, call_text, end)
    return ChatTemplate(
        tokenizer,
        end_tokens=(end,) if call_end == end else (end, call_end),
        writes_tools="probe_tool" in tools_text,
        writes_tool_calls="probe_call" in call_text,
        arguments_as_text=as_text,
    )


def _attempt(template: ChatTemplate, messages: list[Message], tools: Sequence[dict[str, Any]] = ()) -> str:
    """What the template writes; nothing where it refuses."""
    try:
        return template.text(messages, tools, ask=False)
    except TemplateError:
        return ""


def _end_token(tokenizer: Any, tail: str) -> str:
    """The first token of `tail` but for white space, which must be a special one."""
    rest = tail.lstrip()
    tokens = [token for token in _special_tokens(tokenizer) if rest.startswith(token)]
    if not tokens:
        raise TemplateError(
            f"the chat template ends an answer with {tail!r}, no single token: the model would not learn to stop",
            param="model.chat_template",
            hint="use a template that ends each answer with a special token, for example model.chat_template: chatml",
        )
    return max(tokens, key=len)


def _call_end_token(tokenizer: Any, call_text: str, end: str) -> str:
    """The last special token behind a tool call, unless that too ends as a plain answer does."""
    tail = call_text.rpartition("probe_call")[2]
    places = {tail.rfind(token): token for token in _special_tokens(tokenizer) if token in tail}
    return end if end in tail or not places else places[max(places)]


def _special_tokens(tokenizer: Any) -> list[str]:
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    return [token for token in dict.fromkeys([*tokenizer.all_special_tokens, *added]) if token.strip()]


def _common_start(one: str, other: str) -> str:
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


def _squeezed(text: str | None) -> str:
    return "".join((text or "").split())
