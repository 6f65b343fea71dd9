"""Attention in which each document of a pass sees only itself.

Registered with transformers under the name "residency"; transformers builds no mask for it, and every model hands over
`bounds` unchanged from the call of the model. Without `bounds` (generation) transformers' own SDPA runs.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "residency"


def document_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    bounds: tuple[int, ...] | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query (1, heads, total, d); key and value (1, kv_heads, total, d). Returns (1, total, heads, d)."""
    if bounds is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    outputs = []
    for start, end in itertools.pairwise(bounds):
        one = slice(start, end)
        q, k, v = query[:, :, one], key[:, :, one], value[:, :, one]
        if softcap is not None:
            outputs.append(_capped_attention(q, k, v, scaling, softcap, sliding_window))
            continue
        windowed = sliding_window is not None and end - start > sliding_window
        mask = _causal_mask(end - start, sliding_window, query.device) if windowed else None
        outputs.append(
            F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling, enable_gqa=True
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _causal_mask(length: int, window: int | None, device: torch.device) -> torch.Tensor:
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)[None]
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)


def _capped_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float | None, softcap: float, window: int | None
) -> torch.Tensor:
    """Gemma 2 bounds its scores to +-softcap, which no fused kernel of torch does."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = q @ k.transpose(2, 3) * (scaling if scaling is not None else q.shape[-1] ** -0.5)
    scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~_causal_mask(q.shape[2], window, q.device), float("-inf"))
    return scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype) @ v


def install(model: PreTrainedModel, *, packed: bool) -> None:
    """Switches the model between attention by document (training) and transformers' own (generation)."""
    wanted = NAME if packed else "sdpa"
    if model.config._attn_implementation != wanted:
        model.set_attn_implementation(wanted)


AttentionInterface.register(NAME, document_attention)
