"""Attention for a line of tokens that belong to different rows, each row with keys and values of its own.

No padding and no mask: a pass may hold one token of some rows and a piece of the prompt of others, and what a row
computes here is the same in any company. Registered with transformers as "residency_rows"; every model hands over
`pieces` unchanged from the call of the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface

NAME = "residency_rows"
GROWTH = 64
"""Tokens by which a cache grows at least."""


@dataclass(slots=True)
class RowCache:
    """Keys and values of one row's first `length` tokens, layer by layer."""

    length: int = 0
    layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    """Each of shape (1, heads, capacity, d), with capacity >= length."""

    @property
    def capacity(self) -> int:
        return max((keys.shape[2] for keys, _ in self.layers.values()), default=0)

    def extend(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes behind the `length` known tokens; returns all keys and values, the new ones included."""
        end = self.length + key.shape[2]
        keys, values = self.layers.get(layer, (key[:, :, :0], value[:, :, :0]))
        if keys.shape[2] < end:
            capacity = max(end, keys.shape[2] * 3 // 2) + GROWTH
            keys, values = _grown(keys, capacity, self.length), _grown(values, capacity, self.length)
            self.layers[layer] = keys, values
        keys[:, :, self.length : end] = key
        values[:, :, self.length : end] = value
        return keys[:, :, :end], values[:, :, :end]

    def copy(self, length: int) -> RowCache:
        """A cache of its own with the first `length` tokens."""
        layers = {
            layer: (_grown(keys, length + GROWTH, length), _grown(values, length + GROWTH, length))
            for layer, (keys, values) in self.layers.items()
        }
        return RowCache(length, layers)


def _grown(old: torch.Tensor, capacity: int, length: int) -> torch.Tensor:
    new = old.new_empty(*old.shape[:2], capacity, old.shape[3])
    new[:, :, :length] = old[:, :, :length]
    return new


@dataclass(frozen=True, slots=True)
class Piece:
    """The tokens `[start, end)` of the line continue the row that owns `cache`."""

    cache: RowCache
    start: int
    end: int


def row_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    pieces: tuple[Piece, ...] = (),
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query (1, heads, total, d); key and value (1, kv_heads, total, d). Returns (1, total, heads, d)."""
    outputs = []
    for piece in pieces:
        own = slice(piece.start, piece.end)
        k, v = piece.cache.extend(int(module.layer_idx), key[:, :, own], value[:, :, own])  # type: ignore[arg-type]
        outputs.append(_attend(query[:, :, own], k, v, scaling, sliding_window, softcap))
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float | None, window: int | None, softcap: float | None
) -> torch.Tensor:
    """The last query stands at the last key."""
    if window is not None and k.shape[2] > window + q.shape[2] - 1:
        first = k.shape[2] - (window + q.shape[2] - 1)
        k, v = k[:, :, first:], v[:, :, first:]
    queries, keys = q.shape[2], k.shape[2]
    windowed = window is not None and keys > window
    if softcap is None and queries in (1, keys) and not windowed:
        causal = queries > 1
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scaling, enable_gqa=True)
    place = torch.arange(keys, device=q.device)
    distance = place[keys - queries :, None] - place
    seen = (distance >= 0) if window is None else (distance >= 0) & (distance < window)
    if softcap is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scaling, enable_gqa=True)
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = q @ k.transpose(2, 3) * (scaling if scaling is not None else q.shape[-1] ** -0.5)
    scores = (softcap * torch.tanh(scores / softcap)).masked_fill(~seen, float("-inf"))
    return scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype) @ v


AttentionInterface.register(NAME, row_attention)
