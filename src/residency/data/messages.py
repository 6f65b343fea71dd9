"""The one shape every data format is turned into: a conversation, with the place it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

Role = Literal["system", "developer", "user", "assistant", "tool"]


class Function(TypedDict):
    name: str
    arguments: str
    """JSON text, as OpenAI sends it."""


class ToolCall(TypedDict):
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: Function


class Message(TypedDict):
    """OpenAI's chat message; `weight` 0 keeps an assistant turn out of the loss."""

    role: Role
    content: str | None
    name: NotRequired[str]
    weight: NotRequired[int]
    tool_calls: NotRequired[list[ToolCall]]
    tool_call_id: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a row stands: `train.jsonl:17`."""

    file: str
    line: int
    """From 1; for Parquet and JSON arrays the row's number."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Example:
    """One row: a conversation, or (`text`) plain text to continue pre-training on."""

    origin: Origin
    messages: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    text: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    """The row as it stood in the file; graders reach it as `item`."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the last assistant turn."""
        return self.messages[:-1]

    @property
    def reference(self) -> str:
        """The last assistant turn's text."""
        return self.messages[-1]["content"] or ""


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """One row as tokens."""

    input_ids: NDArray[np.int32]
    """Shape (length,)."""
    trained: NDArray[np.bool_]
    """Shape (length,); true where the token is a target that carries loss. Never true at position 0."""
    origin: Origin

    def __len__(self) -> int:
        return len(self.input_ids)
