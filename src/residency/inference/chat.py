"""Chat completions: from a request to rows, and from their pieces to OpenAI's answer, whole or in chunks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from residency.data.messages import Function
from residency.errors import RequestError
from residency.inference.grammar import ANY_OBJECT, JSON_OPTIONS, Constraint
from residency.inference.host import Place
from residency.inference.language import Language
from residency.inference.requests import ChatRequest, NamedFunction, NamedTool
from residency.inference.rows import Piece, Token
from residency.inference.tools import CallShape, call_grammar, find_calls, plain_end
from residency.inference.work import Plan, Work, add_rows, usage


@dataclass(frozen=True, slots=True)
class Offer:
    """The functions that the model may call."""

    tools: list[dict[str, Any]]
    shape: CallShape
    required: bool
    named: bool
    legacy: bool
    """Asked for as `functions`, and answered so."""

    @property
    def names(self) -> set[str]:
        return {tool["function"]["name"] for tool in self.tools}


@dataclass(slots=True)
class Choice:
    text: str = ""
    given: int = 0
    """Characters of `text` that a chunk has carried."""
    tokens: list[Token] = field(default_factory=list)
    finish: str | None = None


class Chat:
    """One request. Raises a ResidencyError where it cannot be served as it stands."""

    def __init__(self, asked: ChatRequest, body: dict[str, Any], place: Place, work: Work) -> None:
        language = place.language
        self._asked, self._language, self._work = asked, language, work
        self._offer = offered(asked, body, language)
        prompt = language.chat_prompt([m.plain() for m in asked.messages], self._offer.tools if self._offer else [])
        if asked.top_logprobs is not None and not asked.logprobs:
            raise RequestError("'top_logprobs' needs 'logprobs' to be true", param="top_logprobs", code="invalid_value")
        plan = Plan(
            prompt, asked.max_new_tokens, "messages", asked.n,
            top_logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
            constraint=constraint(asked, self._offer, language), with_calls=self._offer is not None,
        )  # fmt: skip
        add_rows(work, [plan], asked, place)
        self._prompt_tokens = len(prompt)
        self._choices = [Choice() for _ in work.rows]
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": asked.model.base}

    def take(self, piece: Piece) -> None:
        choice = self._choices[piece.index]
        choice.text += piece.text
        choice.tokens += piece.tokens
        choice.finish = piece.finish

    def whole(self) -> dict[str, Any]:
        choices = [self._whole(index, choice) for index, choice in enumerate(self._choices)]
        counted = usage(self._prompt_tokens, self._work)
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": counted}

    def opening(self) -> Iterator[dict[str, Any]]:
        for index in range(len(self._choices)):
            yield self._chunk(index, {"role": "assistant", "content": "", "refusal": None})

    def chunks(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """What a client that streams is to get of `piece`, which was taken already."""
        choice = self._choices[piece.index]
        logprobs = self._logprobs(piece.tokens)
        end = len(choice.text) if self._offer is None else plain_end(choice.text, self._offer.shape)
        calls: list[Function] = []
        if piece.finish and self._offer:
            text, calls = find_calls(choice.text, self._offer.shape, self._offer.names)
            end = max(choice.given, len(text))
        if new := choice.text[choice.given : end]:
            choice.given = end
            yield self._chunk(piece.index, {"content": new}, logprobs)
        elif piece.tokens and self._asked.logprobs:
            yield self._chunk(piece.index, {}, logprobs)
        if calls:
            yield self._chunk(piece.index, self._calls(calls, streamed=True))
        if piece.finish:
            yield self._chunk(piece.index, {}, finish=self._reason(piece.finish, calls))

    def closing(self) -> Iterator[dict[str, Any]]:
        if self._asked.wants_usage:
            counted = usage(self._prompt_tokens, self._work)
            yield {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": counted}

    def _whole(self, index: int, choice: Choice) -> dict[str, Any]:
        text, calls = choice.text, list[Function]()
        if self._offer:
            text, calls = find_calls(choice.text, self._offer.shape, self._offer.names)
        message = {"role": "assistant", "content": (text or None) if calls else text, "refusal": None}
        return {
            "index": index,
            "message": message | (self._calls(calls, streamed=False) if calls else {}),
            "logprobs": self._logprobs(choice.tokens),
            "finish_reason": self._reason(choice.finish, calls),
        }

    def _chunk(
        self, index: int, delta: dict[str, Any], logprobs: Any = None, finish: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        nothing = {"usage": None} if self._asked.wants_usage else {}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice], **nothing}

    def _calls(self, calls: list[Function], *, streamed: bool) -> dict[str, Any]:
        if self._offer and self._offer.legacy:
            return {"function_call": dict(calls[0])}
        return {
            "tool_calls": [
                ({"index": number} if streamed else {})
                | {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": dict(call)}
                for number, call in enumerate(calls)
            ]
        }

    def _reason(self, finish: str | None, calls: list[Function]) -> str | None:
        """As at OpenAI: a call of a function that the client named ends with `stop`."""
        if not calls or self._offer is None or self._offer.named:
            return finish
        return "function_call" if self._offer.legacy else "tool_calls"

    def _logprobs(self, tokens: list[Token] | tuple[Token, ...]) -> dict[str, Any] | None:
        if not self._asked.logprobs:
            return None
        content = []
        for token in tokens:
            top = [self._spelled(id, logprob) for id, logprob in token.top]
            content.append(self._spelled(token.id, token.logprob) | {"top_logprobs": top})
        return {"content": content, "refusal": None}

    def _spelled(self, id: int, logprob: float | None) -> dict[str, Any]:
        text, known = self._language.spell(id)
        return {"token": text, "bytes": known, "logprob": finite(logprob)}


def finite(logprob: float | None) -> float | None:
    """JSON has no infinity; OpenAI writes -9999.0 for what cannot be."""
    return None if logprob is None else max(logprob, -9999.0)


def offered(asked: ChatRequest, body: dict[str, Any], language: Language) -> Offer | None:
    """What may be called; None where nothing. Raises where the model cannot be shown tools or its calls be read."""
    choice: Any = asked.tool_choice
    tools, legacy = list(body.get("tools") or []), False
    if not tools and asked.functions:
        tools, legacy = [{"type": "function", "function": one} for one in body["functions"]], True
        choice = asked.function_call
    if not tools or choice == "none":
        return None
    template = language.renderer.template
    if not template.writes_tools or language.calls is None:
        reason = "does not show tools to the model" if not template.writes_tools else "writes calls in an unknown form"
        raise RequestError(f"this model's chat template {reason}", param="tools", hint="leave 'tools' out")
    name = choice.name if isinstance(choice, NamedFunction) else None
    name = choice.function.name if isinstance(choice, NamedTool) else name
    if name is not None and not (tools := [tool for tool in tools if tool["function"]["name"] == name]):
        raise RequestError(f"Invalid value for 'tool_choice': no function {name!r} is offered", param="tool_choice")
    return Offer(tools, language.calls, choice == "required" or name is not None, name is not None, legacy)


def constraint(asked: ChatRequest, offer: Offer | None, language: Language) -> Constraint | None:
    """Calls are held to their schemas where the client asks for it; so are answers."""
    schema, param = answer_schema(asked)
    if offer is not None:
        strict = any(tool["function"].get("strict") for tool in offer.tools)
        if offer.required or strict or schema is not None or not asked.parallel_tool_calls:
            text = call_grammar(
                offer.shape, offer.tools, language.special_ids, JSON_OPTIONS,
                required=offer.required, parallel=asked.parallel_tool_calls, answer=schema,
            )  # fmt: skip
            return language.grammars.lark(text, "tools")
    return None if schema is None else language.grammars.json(schema, param)


def answer_schema(asked: ChatRequest) -> tuple[dict[str, Any] | None, str]:
    wanted = asked.response_format
    if wanted is None or wanted.type == "text":
        return None, ""
    if wanted.type == "json_object":
        return ANY_OBJECT, "response_format"
    if wanted.json_schema is None:
        raise RequestError("Missing required parameter: 'response_format.json_schema'",
                          param="response_format.json_schema", code="missing_required_parameter")  # fmt: skip
    schema = wanted.json_schema.schema_
    return ANY_OBJECT if schema is None else schema, f"response_format '{wanted.json_schema.name}'"
