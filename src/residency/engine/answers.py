"""Keys and values while a batch of answers is written.

What all prompts begin with stands there once, and each row's own behind it, in memory that is set aside for many tokens
at a time: transformers' own cache copies the start for every row, and all of it again for every token.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

GROWTH = 64
"""Tokens for which memory is set aside at once."""


class AnswersLayer(DynamicLayer):  # type: ignore[misc]
    """One layer: `update` gives each row's own keys and values, and `attend` adds those of the start."""

    def __init__(self, start: DynamicLayer) -> None:
        super().__init__()
        self.start = (_held(start.keys), _held(start.values)) if start.is_initialized else None
        """Keys and values, each of shape (1, heads, shared, d)."""
        self.length = 0
        """Tokens of each row's own."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Each of shape (rows, heads, new, d); returns (rows, heads, length, d)."""
        if not self.length:
            self.keys, self.values = (_held(states[:, :, :0]) for states in (key_states, value_states))
        end = self.length + key_states.shape[2]
        if self.keys.shape[2] < end:
            self.keys, self.values = (_grown(old, self.length, end + GROWTH) for old in (self.keys, self.values))
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.length + (self.start[0].shape[2] if self.start else 0)


def answers_cache(start: Cache) -> Cache:
    """For rows that go on from what is in `start`."""
    return Cache(layers=[AnswersLayer(layer) for layer in start.layers])


def is_answers(cache: Cache) -> bool:
    return isinstance(cache.layers[0], AnswersLayer)


def is_plain(model: PreTrainedModel) -> bool:
    """Whether nothing but keys and values, through torch's own attention, carries a model from token to token."""
    layers = DynamicCache(config=model.config).layers
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    return plain and bool(model._supports_sdpa and model._supports_attention_backend)


def _held(states: torch.Tensor) -> torch.Tensor:
    """On a CPU in fp32: products as small as a token's are measured twice as fast there as in bf16."""
    return states.float() if states.device.type == "cpu" else states


def _grown(old: torch.Tensor, length: int, capacity: int) -> torch.Tensor:
    new = old.new_empty(*old.shape[:2], capacity, old.shape[3])
    new[:, :, :length] = old[:, :, :length]
    return new


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
    start: tuple[torch.Tensor, torch.Tensor] | None,
) -> torch.Tensor:
    """query (rows, heads, new, d); of each row's own key and value (rows, kv_heads, length, d) and mask (rows, 1, new,
    length). All see the whole start. Returns (rows, new, heads, d)."""
    dtype, query = query.dtype, query.to(key.dtype)
    if start and query.shape[2] == 1:
        return _joint(query, key, value, mask, scaling or query.shape[-1] ** -0.5, *start).to(dtype)
    if start:
        keys, values = (each.expand(len(query), -1, -1, -1) for each in start)
        key, value = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
        mask = F.pad(mask, (keys.shape[2], 0), value=True)
    output: torch.Tensor = sdpa_attention_forward(module, query, key, value, mask, scaling=scaling)[0]
    return output.to(dtype)


def _joint(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
    start_key: torch.Tensor,
    start_value: torch.Tensor,
) -> torch.Tensor:
    """One token of each row. The start is read once for all rows, where torch's own would read a copy for each."""
    rows, heads, _, width = query.shape
    kv_heads, shared = start_key.shape[1:3]
    q = (query * scaling).view(rows, kv_heads, -1, width)
    before = q.transpose(0, 1).reshape(kv_heads, -1, width) @ start_key[0].mT
    behind = (q @ key.mT).masked_fill(~mask, float("-inf"))
    scores = torch.cat([before.view(kv_heads, rows, -1, shared).transpose(0, 1), behind], dim=-1)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    of_start = weights[..., :shared].transpose(0, 1).reshape(kv_heads, -1, shared) @ start_value[0]
    of_start = of_start.view(kv_heads, rows, -1, value.shape[-1]).transpose(0, 1)
    return (of_start + weights[..., shared:] @ value).reshape(rows, 1, heads, -1)
