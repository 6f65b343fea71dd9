"""Continuous batching: rows join and leave between steps, and a step decodes one token of every row that is ready.

A step's tokens stand in one line, sorted by adapter: one token of each row that is decoding, and as much of the prompts
of the others as the step has room for. Rows of plain LoRA adapters and of the base share the pass. Keys and values
that another row holds for the same first tokens (a system turn, the same prompt) are copied instead of computed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from residency.engine.batch import Segment
from residency.engine.memory import available_bytes, is_out_of_memory, release_memory
from residency.engine.sampling import common_prefix
from residency.errors import ModelError, ResourceError, TrainingError
from residency.inference.adapters import Adapter, Adapters, Source
from residency.inference.attention import GROWTH, Piece, RowCache
from residency.inference.choose import choose, describe
from residency.inference.grammar import unusable
from residency.inference.model import BaseModel
from residency.inference.rows import Row

CACHE_SHARE = 0.5
"""Of the memory that is free once the base is loaded, for keys and values."""
SHORTEST_COPY = 16
"""Tokens that are worth copying."""
KEPT = 8
"""Caches of ended rows that are kept for those to come."""


@dataclass(frozen=True, slots=True)
class Limits:
    rows: int = 16
    """Rows that are decoded at once."""
    step_tokens: int = 512
    """Tokens of one pass, so that a long prompt does not keep the others waiting."""
    cache_tokens: int | None = None
    """Tokens of keys and values held at once; None: by the memory that is free."""
    adapters: int = 8
    """Adapters in memory at once."""


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    adapter: Source | None
    tokens: list[int]
    cache: RowCache


@dataclass(slots=True)
class Counts:
    """Since the start, for `/health`."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    preempted: int = 0


class Batch:
    """Used by one thread; `waiting` may be appended to by others."""

    def __init__(self, base: BaseModel, limits: Limits) -> None:
        self.base = base
        self.limits = limits
        self.adapters = Adapters(base, limits.adapters)
        self.cache_tokens = limits.cache_tokens or affordable_tokens(base)
        self.context_tokens = min(base.context_tokens, self.cache_tokens)
        self.waiting: deque[Row] = deque()
        self.rows: list[Row] = []
        self.counts = Counts()
        self._kept: deque[_Kept] = deque(maxlen=KEPT)
        self._loaded: dict[Source | None, Adapter | None] = {None: None}

    @property
    def idle(self) -> bool:
        return not self.rows and not self.waiting

    def step(self) -> None:
        """Lets rows in, and decodes. Where memory runs out, fewer rows go on; raises what cannot be mended so."""
        self._remove_finished()
        self._admit()
        try:
            for group in self._passes(self._plan()):
                self._pass(group)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._give_way()
        self._remove_finished()

    def fail_all(self, error: ModelError | ResourceError | TrainingError) -> None:
        for row in self.rows:
            row.fail(error)
        self.rows, self._kept = [], deque(maxlen=KEPT)
        while self.waiting:  # others may append meanwhile
            self.waiting.popleft().fail(error)

    # ---- who takes part

    def _admit(self) -> None:
        while self.waiting and len(self.rows) < self.limits.rows:
            row = self.waiting[0]
            while self._kept and self._held(row) > self.cache_tokens:
                self._kept.popleft()
            if self.rows and self._held(row) > self.cache_tokens:
                return
            in_use = {one.adapter for one in self.rows if one.adapter is not None}
            try:
                if row.adapter is not None:
                    adapter = self.adapters.get(row.adapter, in_use, row.tokenizer_size)
                    if adapter is None:
                        return
                    self._loaded[row.adapter] = adapter
            except ModelError as error:
                self.waiting.popleft().fail(error)
                continue
            if any(self._same_start(one, row) for one in self.rows if one.waiting > 1):
                return  # it can copy what that one computes now
            self.waiting.popleft()
            self._copy_start(row)
            self.counts.prompt_tokens += 0 if row.generated else len(row.prompt)
            self.rows.append(row)

    @staticmethod
    def _same_start(one: Row, row: Row) -> bool:
        return one.adapter == row.adapter and one.prompt == row.prompt and len(row.prompt) > SHORTEST_COPY

    def _copy_start(self, row: Row) -> None:
        """The longest start that another cache of the same adapter holds; at least one token is left to compute."""
        if row.manner.prompt_logprobs:
            return
        live = [_Kept(one.adapter, one.tokens, one.cache) for one in self.rows]
        known = [
            (min(common_prefix([kept.tokens, row.tokens]), kept.cache.length), kept.cache)
            for kept in [*live, *self._kept]
            if kept.adapter == row.adapter
        ]
        shared, cache = max(known, key=lambda one: one[0], default=(0, RowCache()))
        if shared >= SHORTEST_COPY:
            row.cache = cache.copy(shared)

    def _remove_finished(self) -> None:
        for row in self.rows:
            if row.finished:
                self.counts.completion_tokens += row.generated
        self.rows = [row for row in self.rows if not row.finished]
        for row in [row for row in tuple(self.waiting) if row.finished]:  # their clients have gone away
            self.waiting.remove(row)
        while self._kept and self._held() > self.cache_tokens:
            self._kept.popleft()
        while self._held() > self.cache_tokens and len(self.rows) > 1:
            self._send_back(self.rows[-1:])

    def _held(self, *more: Row) -> int:
        """Tokens that caches have room for, now or after the next pass."""
        live = sum(max(row.cache.capacity, len(row.tokens) + GROWTH) for row in [*self.rows, *more])
        return live + sum(kept.cache.capacity for kept in self._kept)

    def _send_back(self, rows: Sequence[Row]) -> None:
        """They lose their keys and values, and compute them again when there is room."""
        for row in rows:
            row.cache = RowCache()
            if not row.generated:  # else they were told in full
                row.prompt_tokens.clear()
            self.rows.remove(row)
            self.waiting.appendleft(row)
            self.counts.preempted += 1

    def _give_way(self) -> None:
        self._kept.clear()
        self.cache_tokens = max(1, min(self.cache_tokens, self._held()) * 3 // 4)
        if len(self.rows) == 1:
            self.rows.pop().fail(out_of_memory())
        else:
            self._send_back(self.rows[len(self.rows) // 2 :])
        release_memory()

    # ---- one step

    def _plan(self) -> list[tuple[Row, int]]:
        """Which rows pass how many tokens: those that decode first, then prompts in the order they came."""
        room = self.limits.step_tokens
        plan = []
        for row in sorted(self.rows, key=lambda one: one.waiting > 1):
            count = min(row.waiting, max(room, 0))
            if count:
                plan.append((row, count))
                room -= count
        return plan

    def _passes(self, plan: Iterable[tuple[Row, int]]) -> list[list[tuple[Row, int]]]:
        """Plain adapters and the base in one pass, each other adapter in one of its own."""

        def name(part: tuple[Row, int]) -> tuple[str, str]:
            adapter = self._loaded[part[0].adapter]
            return ("" if adapter is None or adapter.shared else adapter.name, adapter.name if adapter else "")

        return [list(group) for _, group in groupby(sorted(plan, key=name), key=lambda part: name(part)[0])]

    def _pass(self, parts: Sequence[tuple[Row, int]]) -> None:
        line: list[int] = []
        positions: list[int] = []
        pieces, segments, keep, owners = [], [], [], []
        for row, count in parts:
            start, known = len(line), row.cache.length
            line += row.tokens[known : known + count]
            positions += range(known, known + count)
            pieces.append(Piece(row.cache, start, start + count))
            adapter = self._loaded[row.adapter]
            segments.append(Segment(adapter.name if adapter else None, start, start + count))
            wanted = range(count) if row.manner.prompt_logprobs and not row.generated else range(count - 1, count)
            keep += [start + place for place in wanted]
            owners.append((row, known, len(wanted)))
        first = self._loaded[parts[0][0].adapter]
        self.adapters.activate(first if first and not first.shared else None)
        logits = self.base.forward(line, positions, tuple(pieces), keep, merged(segments))
        self.counts.steps += 1
        self._answer(logits, owners)

    def _answer(self, logits: torch.Tensor, owners: Sequence[tuple[Row, int, int]]) -> None:
        """`owners`: for each row in turn its known tokens before the pass, and how many of the logits are its own."""
        ready, last, start = [], [], 0
        for row, known, count in owners:
            if row.manner.prompt_logprobs and not row.generated:
                told = row.prompt[known + 1 : known + 1 + count]
                counts = [row.manner.top_logprobs or 0] * len(told)
                if told:
                    chosen = torch.tensor(told, device=logits.device)
                    row.prompt_tokens += describe(logits[start : start + len(told)], chosen, counts)
            start += count
            if row.waiting:
                continue
            if row.manner.max_new_tokens == 0:
                row.finish("length")
                continue
            ready.append(row)
            last.append(start - 1)
        if not ready:
            return
        for row, token in zip(ready, choose(logits[last], ready), strict=True):
            kept = _Kept(row.adapter, row.tokens, row.cache)
            if row.finished:  # nobody waits for it any more
                continue
            if token is None:
                row.fail(no_number())
            elif row.constraint is not None and (problem := row.constraint.problem()):
                row.fail(unusable("response_format", problem))
            elif row.accept(token):
                self._kept.append(kept)
            elif len(row.tokens) >= self.context_tokens:
                row.finish("length")


def merged(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Neighbours of the same adapter as one."""
    groups = [list(group) for _, group in groupby(segments, key=lambda one: one.adapter)]
    return tuple(Segment(group[0].adapter, group[0].start, group[-1].end) for group in groups)


def affordable_tokens(base: BaseModel) -> int:
    tokens = int(available_bytes(base.device) * CACHE_SHARE) // max(1, base.bytes_per_token)
    if tokens < 1:
        raise out_of_memory()
    return tokens


def no_number() -> TrainingError:
    return TrainingError(
        "the model's output is not a number", code="model_output_invalid",
        hint="the adapter or its base is damaged, or its training diverged",
    )  # fmt: skip


def out_of_memory() -> ResourceError:
    return ResourceError(
        "memory ran out for this answer", code="out_of_memory",
        hint="shorten the prompt or the answer, or try again when less is running",
    )  # fmt: skip
