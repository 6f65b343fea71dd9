"""Text from a model: batched decoding with a key-value cache, greedy or at a temperature."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import Cache, DynamicCache, PreTrainedConfig, PreTrainedModel

from residency.engine import answers
from residency.errors import TrainingError


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    max_new_tokens: int
    stop_ids: tuple[int, ...] = ()
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    seed: int = 0
    batch_size: int = 32
    numbers: tuple[int, ...] = ()
    """What is drawn for a prompt depends on the seed and its number: its place, unless they are given here."""


@dataclass(frozen=True, slots=True)
class Sampled:
    token_ids: list[int]
    """Without the stop token."""
    finished: bool
    """Whether the model ended itself, rather than at `max_new_tokens`."""


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Length of the tokens all prompts begin with; at least one token of each prompt is left over."""
    first, last = min(map(list, prompts)), max(map(list, prompts))
    limit = min(len(prompt) for prompt in prompts) - 1
    return next((i for i in range(limit) if first[i] != last[i]), limit)


def attention_span(config: PreTrainedConfig) -> float:
    """Tokens that every layer looks back on at least. Beyond it padding inside a row would count as tokens."""
    text = config.get_text_config()
    spans = (getattr(text, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((span for span in spans if span), default=math.inf)


def longest_row(prompts: Sequence[Sequence[int]], settings: SamplingSettings) -> int:
    return max(map(len, prompts), default=0) + settings.max_new_tokens


def held_once(model: PreTrainedModel, prompts: Sequence[Sequence[int]], settings: SamplingSettings) -> bool:
    """Whether what these prompts share can be held once for all (`answers.py`), by attention of our own."""
    return longest_row(prompts, settings) <= attention_span(model.config) and answers.is_plain(model)


@torch.no_grad()
def stream(
    model: PreTrainedModel, prompts: Mapping[int, Sequence[int]], settings: SamplingSettings, *, once: bool = False
) -> Iterator[tuple[int, int]]:
    """Yields `(number of the prompt, token id)` as they come, the stop token included.

    What all prompts share (a system turn, worked examples) passes through the model once; `once` where `held_once`, and
    the model's attention is ours. What is drawn depends on the seed and the prompt's number, and not on which prompts
    pass together.
    """
    for batch in _batches(model, prompts, settings, once):
        chances = torch.from_numpy(_chances(batch.rows, settings)).to(model.device)
        for step in range(settings.max_new_tokens):
            tokens = _choose(batch.logits(), settings, chances[:, step])
            chosen = tokens.tolist()
            yield from zip(batch.rows, chosen, strict=True)
            going = [i for i, token in enumerate(chosen) if token not in settings.stop_ids]
            if not going:
                break
            if len(going) < len(chosen):
                kept = torch.tensor(going, device=model.device)
                batch.keep(kept)
                tokens, chances = tokens[kept], chances[kept]
            batch.append(tokens)


def _batches(
    model: PreTrainedModel, prompts: Mapping[int, Sequence[int]], settings: SamplingSettings, once: bool
) -> Iterator[_Batch]:
    if not prompts:
        return
    every = list(prompts.values())
    shared = common_prefix(every) if longest_row(every, settings) <= attention_span(model.config) else 0
    start = DynamicCache(config=model.config)
    if shared:
        ids = torch.tensor([list(every[0][:shared])], device=model.device)
        model(input_ids=ids, past_key_values=start, logits_to_keep=1)
    by_length = sorted(prompts, key=lambda i: len(prompts[i]))
    for begin in range(0, len(by_length), settings.batch_size):
        rows = by_length[begin : begin + settings.batch_size]
        rests = [tuple(prompts[row][shared:]) for row in rows]
        distinct = list(dict.fromkeys(rests))
        cache = answers.answers_cache(start) if once else _repeated(start, len(distinct))
        yield _Batch(model, rows, distinct, [distinct.index(rest) for rest in rests], cache)


def _repeated(start: DynamicCache, rows: int) -> DynamicCache:
    cache = copy.deepcopy(start)
    if cache.get_seq_length():
        cache.batch_repeat_interleave(rows)
    return cache


class _Batch:
    """Rows that pass together, padded on the left between the shared start in `cache` and each prompt's rest.

    A prompt that several rows have passes through the model once: `copies` says which of the `distinct` rests each row
    has.
    """

    def __init__(
        self, model: PreTrainedModel, rows: Sequence[int], distinct: Sequence[Sequence[int]], copies: Sequence[int],
        cache: Cache,
    ) -> None:  # fmt: skip
        self.model, self.cache, self.rows = model, cache, list(rows)
        self.copies = torch.tensor(copies, device=model.device)
        width = max(map(len, distinct))
        tokens = [[0] * (width - len(rest)) + list(rest) for rest in distinct]
        padding = torch.tensor([width - len(rest) for rest in distinct], device=model.device)
        self.ids = torch.tensor(tokens, device=model.device)
        self.seen = torch.arange(width, device=model.device) >= padding[:, None]
        """Where each row has a token of its own, shape (rows, length); until the first logits, each distinct prompt."""
        self.positions = (self.seen.cumsum(dim=1) - 1).clamp(min=0) + cache.get_seq_length()

    def logits(self) -> torch.Tensor:
        """Behind the last token of each row, shape (rows, vocabulary)."""
        # For a number the head gets a view, and of one longer than a token torch copies the whole head for every row.
        new = self.ids.shape[1]
        last = 1 if new == 1 else torch.tensor([new - 1], device=self.ids.device)
        logits: torch.Tensor = self.model(
            input_ids=self.ids, position_ids=self.positions, past_key_values=self.cache, logits_to_keep=last,
            **self._attention(),
        ).logits  # fmt: skip
        if len(logits) == len(self.rows):
            return logits[:, -1]
        self._select(self.copies)
        return logits[self.copies, -1]

    def append(self, tokens: torch.Tensor) -> None:
        """One more of each row, shape (rows,)."""
        self.ids, self.positions = tokens[:, None], self.positions[:, -1:] + 1
        self.seen = F.pad(self.seen, (0, 1), value=True)

    def keep(self, rows: torch.Tensor) -> None:
        """The others leave; `rows` are places in the batch."""
        self.rows = [self.rows[i] for i in rows.tolist()]
        self._select(rows)

    def _select(self, places: torch.Tensor) -> None:
        self.cache.batch_select_indices(places)
        self.seen, self.positions = self.seen[places], self.positions[places]

    def _attention(self) -> dict[str, Any]:
        new, length = self.ids.shape[1], self.seen.shape[1]
        if not answers.is_answers(self.cache):
            shared = self.cache.get_seq_length() + new - length
            return {"attention_mask": F.pad(self.seen, (shared, 0), value=True).long()}
        mask = self.seen[:, None]
        if new > 1:
            mask = (mask | torch.eye(new, dtype=torch.bool, device=mask.device)).tril()  # padding attends to itself
        return {"attention_mask": mask[:, None], "written": self.cache}


def _chances(rows: Sequence[int], settings: SamplingSettings) -> NDArray[np.float64]:
    """For each row and new token a number in [0, 1) that decides, shape (rows, max_new_tokens)."""
    shape = (len(rows), settings.max_new_tokens)
    if settings.temperature == 0:
        return np.zeros(shape)
    numbers = [settings.numbers[row] if settings.numbers else row for row in rows]
    return np.stack([np.random.default_rng((settings.seed % 2**64, number)).random(shape[1]) for number in numbers])


def _choose(logits: torch.Tensor, settings: SamplingSettings, chances: torch.Tensor) -> torch.Tensor:
    """logits (rows, vocabulary), chances (rows,); returns (rows,). Raises TrainingError where there is nothing to draw
    from."""
    if settings.temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = (logits.float() / settings.temperature).softmax(dim=-1)
    if not probabilities.isfinite().all():
        raise TrainingError("what the model expects next is no number", code="not_finite",
                            hint="its weights are damaged, or were trained at too high a rate")  # fmt: skip
    if settings.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        ordered[ordered.cumsum(dim=-1) - ordered > settings.top_p] = 0.0
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    reached = probabilities.double().cumsum(dim=-1)
    drawn = torch.searchsorted(reached, chances[:, None] * reached[:, -1:], right=True)
    return drawn.squeeze(-1).clamp(max=logits.shape[-1] - 1)


def collect(tokens: Iterator[tuple[int, int]], count: int, stop_ids: Sequence[int]) -> list[Sampled]:
    """Gathers a stream into one answer per prompt."""
    answers: list[list[int]] = [[] for _ in range(count)]
    for row, token in tokens:
        answers[row].append(token)
    ended = [bool(ids) and ids[-1] in stop_ids for ids in answers]
    return [Sampled(ids[:-1] if end else ids, end) for ids, end in zip(answers, ended, strict=True)]
