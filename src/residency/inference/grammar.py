"""Answers that must follow a grammar: each token is chosen from those the grammar allows next. By llguidance."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import llguidance
import llguidance.hf
import numpy as np
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from numpy.typing import NDArray

from residency.errors import RequestError

JSON_OPTIONS: dict[str, Any] = {
    "whitespace_flexible": True,
    # Bounded, as a small model may go on with blanks for ever.
    "whitespace_pattern": r"[\x20\x0A\x0D\x09]{0,32}",
    "lenient": False,
}
ANY_OBJECT = {"type": "object"}


class Constraint:
    """Where one row stands in its grammar."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    def copy(self) -> Constraint:
        """For another row, from the same place."""
        return Constraint(self._matcher.deep_copy())

    def allowed(self, vocabulary: int) -> NDArray[np.bool_]:
        """Shape (vocabulary,): the tokens that may come next."""
        mask = allocate_token_bitmask(1, vocabulary)
        mask[:] = 0
        fill_next_token_bitmask(self._matcher, mask)
        bits: NDArray[np.bool_] = np.unpackbits(mask.view(np.uint8)[0], bitorder="little")[:vocabulary].astype(np.bool_)
        return bits

    def problem(self) -> str:
        """Why the grammar cannot be followed any further, such as its size; empty while it can."""
        return str(self._matcher.get_error())

    def consume(self, token: int) -> bool:
        """Takes a token that was allowed; returns whether the answer is complete."""
        self._matcher.consume_token(token)
        return bool(self._matcher.is_stopped())


class Grammars:
    """Compiles grammars over one tokenizer's tokens."""

    def __init__(self, tokenizer: Any, vocabulary: int, stop_ids: Collection[int]) -> None:
        self._tokenizer, self._vocabulary, self._stop_ids = tokenizer, vocabulary, sorted(stop_ids)
        self._tokens: llguidance.LLTokenizer | None = None

    def tokens(self) -> llguidance.LLTokenizer:
        """Made at the first use: it takes about a second. Raises RequestError for a tokenizer it cannot read."""
        if self._tokens is None:
            try:
                self._tokens = llguidance.hf.from_tokenizer(self._tokenizer, self._vocabulary, self._stop_ids)
            except (ValueError, RuntimeError) as error:
                raise RequestError(
                    f"this model's tokenizer cannot be constrained: {error}", param="response_format",
                    hint="ask for the format in the prompt instead",
                ) from error  # fmt: skip
        return self._tokens

    def json(self, schema: Any, param: str) -> Constraint:
        """Answers that validate against the JSON schema. Raises RequestError, naming `param`, where it is no schema or
        says something that cannot be held."""
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(
                json.dumps(schema), overrides=JSON_OPTIONS  # type: ignore[arg-type]
            )  # fmt: skip
        except ValueError as error:
            raise unusable(param, str(error)) from error
        return self._compile(grammar, param)

    def lark(self, grammar: str, param: str) -> Constraint:
        """Answers that follow a grammar in llguidance's Lark form."""
        return self._compile(llguidance.LLMatcher.grammar_from_lark(grammar), param)

    def _compile(self, grammar: str, param: str) -> Constraint:
        matcher = llguidance.LLMatcher(self.tokens(), grammar, log_level=0)
        constraint = Constraint(matcher)
        possible = not matcher.is_error() and constraint.allowed(self._vocabulary).any()
        if problem := constraint.problem() or ("" if possible else "no answer can follow it"):
            raise unusable(param, problem)
        return constraint


def unusable(param: str, reason: str) -> RequestError:
    return RequestError(
        f"Invalid schema for {param}: {(reason.strip().splitlines() or ['it cannot be read'])[0]}", param=param,
        hint="simplify the schema; it must be one that every answer can be held to",
    )  # fmt: skip
