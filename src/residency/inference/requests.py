"""What a client may ask for, as OpenAI defines it, checked. What OpenAI ignores or we do not know is ignored."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from residency.data.messages import Function, Message, Role, ToolCall
from residency.data.turns import ROLES
from residency.errors import RequestError

MAX_CHOICES = 128


class Part(BaseModel):
    """OpenAI's requests may carry more fields than are read here."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Served(Part):
    """What the API process made of the client's model name."""

    base: str = Field(min_length=1)
    adapter: str | None = None


class TextPart(Part):
    type: Literal["text"]
    text: str


class AskedFunction(Part):
    name: str = Field(min_length=1)
    arguments: str

    @field_validator("arguments")
    @classmethod
    def _are_an_object(cls, text: str) -> str:
        try:
            value = json.loads(text or "{}")
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise ValueError("expected a JSON object as text")
        return text or "{}"


class AskedCall(Part):
    id: str | None = None
    function: AskedFunction


class AskedMessage(Part):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[AskedCall] | None = None
    function_call: AskedFunction | None = None
    tool_call_id: str | None = None

    def plain(self) -> Message:
        """In the form in which training rows are rendered."""
        content = self.content if isinstance(self.content, str | None) else "".join(part.text for part in self.content)
        role: Role = ROLES[self.role]  # type: ignore[assignment]
        message = Message(role=role, content=content)
        if self.name is not None:
            message["name"] = self.name
        if self.tool_call_id is not None and role == "tool":
            message["tool_call_id"] = self.tool_call_id
        calls = self.tool_calls or ([AskedCall(function=self.function_call)] if self.function_call else [])
        if calls and role == "assistant":
            message["tool_calls"] = [_call(call) for call in calls]
        return message


def _call(call: AskedCall) -> ToolCall:
    function = Function(name=call.function.name, arguments=call.function.arguments)
    plain = ToolCall(type="function", function=function)
    if call.id is not None:
        plain["id"] = call.id
    return plain


class OfferedFunction(Part):
    name: str = Field(min_length=1, max_length=64)
    strict: bool | None = None
    parameters: dict[str, Any] | None = None


class OfferedTool(Part):
    model_config = ConfigDict(extra="allow", frozen=True)
    type: Literal["function"]
    function: OfferedFunction


class NamedFunction(Part):
    name: str


class NamedTool(Part):
    function: NamedFunction


class JsonSchema(Part):
    name: str = Field(max_length=64)
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class ResponseFormat(Part):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Part):
    include_usage: bool | None = None


def _not_null(default: Any) -> BeforeValidator:
    """OpenAI's clients send null for what they leave out."""
    return BeforeValidator(lambda value: default if value is None else value)


class Asked(Part):
    """What both endpoints share."""

    model: Served
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES), _not_null(1)] = 1
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False), _not_null(1.0)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), _not_null(1.0)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False), _not_null(0.0)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False), _not_null(0.0)] = 0.0
    logit_bias: Annotated[dict[int, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]], _not_null({})] = {}
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: Annotated[bool, _not_null(False)] = False
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> list[str]:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > 4:
            raise RequestError(f"Invalid 'stop': at most 4 sequences, not {len(stops)}", param="stop")
        return stops

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(Asked):
    messages: list[AskedMessage] = Field(min_length=1)
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: Annotated[bool, _not_null(False)] = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[OfferedTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: Annotated[bool, _not_null(True)] = True
    functions: list[OfferedFunction] | None = None
    function_call: Literal["none", "auto"] | NamedFunction | None = None
    response_format: ResponseFormat | None = None

    @property
    def max_new_tokens(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


class CompletionRequest(Asked):
    prompt: str | list[str] | list[int] | list[list[int]] = ""
    max_tokens: Annotated[int, Field(ge=0), _not_null(16)] = 16
    echo: Annotated[bool, _not_null(False)] = False
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    best_of: Annotated[int, Field(ge=0, le=20), _not_null(1)] = 1
    suffix: str | None = None
