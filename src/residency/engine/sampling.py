"""Text from a model: batched decoding with a key-value cache, greedy or at a temperature."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

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


@torch.no_grad()
def stream(
    model: PreTrainedModel, prompts: Mapping[int, Sequence[int]], settings: SamplingSettings
) -> Iterator[tuple[int, int]]:
    """Yields `(number of the prompt, token id)` as they come, the stop token included.

    What all prompts share (a system turn, worked examples) passes through the model once. What is drawn depends on the
    seed and the prompt's number, and not on which prompts pass together.
    """
    if not prompts:
        return
    device = model.device
    longest = max(map(len, prompts.values())) + settings.max_new_tokens
    shared = common_prefix(list(prompts.values())) if longest <= attention_span(model.config) else 0
    prefix = DynamicCache(config=model.config)
    if shared:
        start = list(next(iter(prompts.values()))[:shared])
        model(input_ids=torch.tensor([start], device=device), past_key_values=prefix, logits_to_keep=1)
    by_length = sorted(prompts, key=lambda i: len(prompts[i]))
    for begin in range(0, len(by_length), settings.batch_size):
        rows = by_length[begin : begin + settings.batch_size]
        yield from _decode(model, {row: prompts[row][shared:] for row in rows}, copy.deepcopy(prefix), settings)


def _decode(
    model: PreTrainedModel,
    rests: dict[int, Sequence[int]],
    cache: DynamicCache,
    settings: SamplingSettings,
) -> Iterator[tuple[int, int]]:
    """One batch, padded on the left between the shared prefix in `cache` and each prompt's rest."""
    rows, device, shared = list(rests), model.device, cache.get_seq_length()
    width = max(len(rest) for rest in rests.values())
    padding = torch.tensor([width - len(rest) for rest in rests.values()], device=device)
    ids = torch.tensor([[0] * (width - len(rest)) + list(rest) for rest in rests.values()], device=device)
    column = torch.arange(width, device=device)
    mask = torch.cat([ids.new_ones(len(rows), shared), (column >= padding[:, None]).long()], dim=1)
    positions = (column - padding[:, None]).clamp(min=0) + shared
    chances = torch.from_numpy(_chances(rows, settings)).to(device)
    if shared:
        cache.batch_repeat_interleave(len(rows))
    for step in range(settings.max_new_tokens):
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache,
                       logits_to_keep=1).logits[:, -1]  # fmt: skip
        tokens = _choose(logits, settings, chances[:, step])
        yield from zip(rows, tokens.tolist(), strict=True)
        going = [i for i, token in enumerate(tokens.tolist()) if token not in settings.stop_ids]
        if not going:
            return
        if len(going) < len(rows):
            kept = torch.tensor(going, device=device)
            cache.batch_select_indices(kept)
            rows = [rows[i] for i in going]
            tokens, mask, positions, chances = tokens[kept], mask[kept], positions[kept], chances[kept]
        ids, positions = tokens[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)


def _chances(rows: Sequence[int], settings: SamplingSettings) -> NDArray[np.float64]:
    """For each row and new token a number in [0, 1) that decides, shape (rows, max_new_tokens)."""
    shape = (len(rows), settings.max_new_tokens)
    if settings.temperature == 0:
        return np.zeros(shape)
    return np.stack([np.random.default_rng((settings.seed % 2**64, row)).random(shape[1]) for row in rows])


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
