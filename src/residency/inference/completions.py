"""Completions of plain text: from a request to rows, and from their pieces to OpenAI's older answer."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from residency.errors import RequestError
from residency.inference.chat import finite
from residency.inference.host import Place
from residency.inference.language import Language
from residency.inference.requests import CompletionRequest
from residency.inference.rows import Piece, Row, Token
from residency.inference.work import Plan, Work, add_rows, usage


@dataclass(slots=True)
class Text:
    """One choice."""

    echo: str = ""
    """The prompt's text, where it is to stand before the answer."""
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: str | None = None


class Completion:
    """One request. Raises a ResidencyError where it cannot be served as it stands."""

    def __init__(self, asked: CompletionRequest, place: Place, work: Work) -> None:
        refuse_unknown(asked)
        self._asked, self._language, self._work = asked, place.language, work
        prompts = read_prompts(asked, place.language)
        self._candidates = max(asked.n, asked.best_of)
        scored = asked.logprobs is not None
        plans = [
            Plan(ids, asked.max_tokens, "prompt", self._candidates,
                 top_logprobs=asked.logprobs or 0 if scored or self._candidates > asked.n else None,
                 prompt_logprobs=scored and asked.echo)
            for _, ids in prompts
        ]  # fmt: skip
        add_rows(work, plans, asked, place)
        self._prompt_tokens = sum(len(ids) for _, ids in prompts)
        self._choices = [Text(text if asked.echo else "") for text, _ in prompts for _ in range(self._candidates)]
        self._head = {"id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion", "created": int(time.time()),
                      "model": asked.model.base}  # fmt: skip

    def take(self, piece: Piece) -> None:
        choice = self._choices[piece.index]
        choice.text += piece.text
        choice.tokens += piece.tokens
        choice.finish = piece.finish

    def whole(self) -> dict[str, Any]:
        chosen = [number for start in range(0, len(self._choices), self._candidates) for number in self._best(start)]
        choices = []
        for index, number in enumerate(chosen):
            choice, row = self._choices[number], self._work.rows[number]
            logprobs = self._logprobs(row, choice.tokens, len(choice.echo), with_prompt=True)
            choices.append(self._choice(index, choice.echo + choice.text, logprobs, choice.finish))
        return {**self._head, "choices": choices, "usage": usage(self._prompt_tokens, self._work)}

    def opening(self) -> Iterator[dict[str, Any]]:
        return iter(())

    def chunks(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """What a client that streams is to get of `piece`, which was taken already."""
        choice, row = self._choices[piece.index], self._work.rows[piece.index]
        first = choice.text == piece.text
        logprobs = self._logprobs(row, piece.tokens, len(choice.echo), with_prompt=first)
        text = (choice.echo if first else "") + piece.text
        yield self._chunk([self._choice(piece.index, text, logprobs, piece.finish)])

    def closing(self) -> Iterator[dict[str, Any]]:
        if self._asked.wants_usage:
            yield {**self._head, "choices": [], "usage": usage(self._prompt_tokens, self._work)}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "choices": choices, **({"usage": None} if self._asked.wants_usage else {})}

    def _best(self, start: int) -> list[int]:
        """The `n` candidates of a prompt with the highest log-probability for each token."""
        numbers = list(range(start, start + self._candidates))
        if self._candidates == self._asked.n:
            return numbers

        def mean(number: int) -> float:
            known = [token.logprob or 0.0 for token in self._choices[number].tokens]
            return -sum(known) / max(1, len(known))

        return sorted(numbers, key=mean)[: self._asked.n]

    @staticmethod
    def _choice(index: int, text: str, logprobs: Any, finish: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def _logprobs(
        self, row: Row, tokens: Sequence[Token], offset: int, *, with_prompt: bool
    ) -> dict[str, list[Any]] | None:
        if self._asked.logprobs is None:
            return None
        spell, table = self._language.spell, LogprobTable()
        if with_prompt and self._asked.echo:
            table.add(spell(row.prompt[0])[0], None, None, 0)
            for token in row.prompt_tokens:
                table.add(spell(token.id)[0], token.logprob, self._top(token), table.end)
        for token in tokens:
            table.add(spell(token.id)[0], token.logprob, self._top(token), offset + token.start)
        return table.columns

    def _top(self, token: Token) -> dict[str, float | None]:
        likely = {self._language.spell(id)[0]: finite(logprob) for id, logprob in token.top}
        return likely | {self._language.spell(token.id)[0]: finite(token.logprob)}


class LogprobTable:
    """OpenAI's older form: a list for each column."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        self.end = 0

    def add(self, text: str, logprob: float | None, top: dict[str, float | None] | None, offset: int) -> None:
        for column, value in zip(self.columns.values(), (text, finite(logprob), top, offset), strict=True):
            column.append(value)
        self.end = offset + len(text)


def refuse_unknown(asked: CompletionRequest) -> None:
    if asked.suffix:
        raise RequestError("'suffix' is not supported: these models only continue a text", param="suffix",
                          code="unsupported_parameter", hint="leave it out")  # fmt: skip
    if 1 < asked.best_of < asked.n:
        raise RequestError("'best_of' must be at least 'n'", param="best_of", code="invalid_value")
    if asked.stream and asked.best_of > asked.n:
        raise RequestError("'best_of' above 'n' cannot be streamed", param="best_of", code="invalid_value")


def read_prompts(asked: CompletionRequest, language: Language) -> list[tuple[str, list[int]]]:
    """Each prompt as text and as tokens; an empty one is the token that texts begin with."""
    given: Any = asked.prompt
    several = isinstance(given, list) and (not given or not isinstance(given[0], int))
    prompts = [
        (one, language.encode(one)) if isinstance(one, str) else (language.decode(one), list(one))
        for one in (given if several else [given])
    ]
    if not prompts:
        raise RequestError("'prompt' must not be an empty list", param="prompt", code="invalid_value")
    if any(not 0 <= id < language.vocabulary for _, ids in prompts for id in ids):
        raise RequestError("'prompt' holds token ids that this model does not know", param="prompt",
                           code="invalid_value")  # fmt: skip
    tokenizer = language.tokenizer
    start = next((id for id in (tokenizer.bos_token_id, tokenizer.eos_token_id) if id is not None), 0)
    return [(text, ids or [start]) for text, ids in prompts]
