"""A row: one answer in the making, from its prompt to why it ended."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from residency.errors import ResidencyError
from residency.inference.adapters import Source
from residency.inference.attention import RowCache
from residency.inference.grammar import Constraint
from residency.inference.text import TextStream

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Manner:
    """How tokens are chosen, in OpenAI's terms."""

    max_new_tokens: int
    stop_ids: frozenset[int] = frozenset()
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None
    """How many likeliest tokens are told beside each chosen one; None: no log-probabilities at all."""
    prompt_logprobs: bool = False
    vocabulary: int | None = None
    """Ids from here on are never chosen: another adapter's tokens."""


@dataclass(frozen=True, slots=True)
class Token:
    id: int
    start: int = 0
    """Where its text begins in the answer, in characters."""
    logprob: float | None = None
    """In nats, under the model's own distribution: before temperature, penalties, bias and grammar."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest ids with their log-probabilities."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What came of a row in one step."""

    index: int
    text: str = ""
    tokens: tuple[Token, ...] = ()
    finish: FinishReason | None = None


@dataclass(eq=False, slots=True)
class Row:
    index: int
    """Which of its request's choices it is."""
    prompt: list[int]
    manner: Manner
    text: TextStream
    emit: Callable[[Piece | ResidencyError], None]
    """Called by the decoding thread."""
    random: random.Random
    adapter: Source | None = None
    tokenizer_size: int = 0
    constraint: Constraint | None = None
    tokens: list[int] = field(default_factory=list)
    """The prompt and what was generated."""
    cache: RowCache = field(default_factory=RowCache)
    counts: Counter[int] = field(default_factory=Counter)
    """How often each token was chosen."""
    prompt_tokens: list[Token] = field(default_factory=list)
    """The prompt's tokens behind the first, where their log-probabilities are wanted."""
    held: list[Token] = field(default_factory=list)
    """Tokens whose text was not given out yet."""
    finished: bool = False
    """Also set from outside, where nobody waits for it any more."""

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.prompt)

    @property
    def waiting(self) -> int:
        """Tokens that must pass through the model before the next one can be chosen."""
        return len(self.tokens) - self.cache.length

    def accept(self, token: Token) -> bool:
        """Takes the chosen token, and tells what came of it. Returns whether the answer has ended."""
        ended = token.id in self.manner.stop_ids
        if not ended:
            self.tokens.append(token.id)
            self.counts[token.id] += 1
            self.held.append(Token(token.id, len(self.text.text), token.logprob, token.top))
        piece = "" if ended else self.text.push(token.id)
        complete = self.constraint is not None and self.constraint.consume(token.id)
        if ended or complete or self.text.stopped:
            self.finish("stop", piece)
        elif self.generated >= self.manner.max_new_tokens:
            self.finish("length", piece)
        elif piece:
            self.emit(Piece(self.index, piece, self._shown()))
        return self.finished

    def finish(self, reason: FinishReason, piece: str = "") -> None:
        rest = piece if self.text.stopped else piece + self.text.finish()
        if self.text.stopped:
            reason = "stop"
            self.held = [token for token in self.held if token.start < len(self.text.text)]
        shown, self.held = tuple(self.held), []
        self.leave()
        self.emit(Piece(self.index, rest, shown, reason))

    def fail(self, error: ResidencyError) -> None:
        self.leave()
        self.emit(error)

    def leave(self) -> None:
        self.finished = True
        self.cache = RowCache()

    def _shown(self) -> tuple[Token, ...]:
        """The tokens whose text has begun to be given out."""
        shown = tuple(token for token in self.held if token.start < self.text.given)
        self.held = self.held[len(shown) :]
        return shown
