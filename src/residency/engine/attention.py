"""Attention in which each document of a pass sees only itself.

Registered with transformers under the name "residency"; transformers builds no mask for it, and every model hands over
`packed` unchanged from the call of the model; or, where answers are written, the `written` cache they stand in.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, Cache, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from residency.engine import answers
from residency.engine.batch import Pack

NAME = "residency"


def document_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed: Pack | None = None,
    written: Cache | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query (1, heads, total, d); key and value (1, kv_heads, total, d). Returns (1, total, heads, d)."""
    if written is not None:
        assert attention_mask is not None
        start = written.layers[module.layer_idx].start
        return answers.attend(module, query, key, value, attention_mask, scaling, start), None
    if packed is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    dtype = query.dtype
    if query.device.type == "cpu" and dtype == torch.bfloat16:
        # Its backward is measured 3 times as fast in fp32 there, the conversions included.
        query, key, value = query.float(), key.float(), value.float()
    outputs = []
    for document in packed.documents:
        own = slice(document.start, document.end)
        q, k, v = query[:, :, own], key[:, :, own], value[:, :, own]
        if document.prefix:
            before = slice(*document.prefix)
            k, v = torch.cat([key[:, :, before], k], dim=2), torch.cat([value[:, :, before], v], dim=2)
        if softcap is not None:
            outputs.append(_capped_attention(q, k, v, scaling, softcap, sliding_window))
            continue
        windowed = sliding_window is not None and k.shape[2] > sliding_window
        mask = _causal_mask(q, k, sliding_window) if windowed or document.prefix else None
        outputs.append(
            F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling, enable_gqa=True
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).to(dtype), None


def _causal_mask(q: torch.Tensor, k: torch.Tensor, window: int | None) -> torch.Tensor:
    """True where a query may see a key; the last query stands at the last key."""
    queries, keys = q.shape[2], k.shape[2]
    position = torch.arange(keys, device=q.device)
    distance = position[keys - queries :, None] - position
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)


def _capped_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float | None, softcap: float, window: int | None
) -> torch.Tensor:
    """Gemma 2 bounds its scores to +-softcap, which no fused kernel of torch does."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = q @ k.transpose(2, 3) * (scaling if scaling is not None else q.shape[-1] ** -0.5)
    scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~_causal_mask(q, k, window), float("-inf"))
    return scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype) @ v


def install(model: PreTrainedModel, *, packed: bool) -> None:
    """Switches the model between attention by document (training) and transformers' own (generation)."""
    own = "sdpa" if model._supports_sdpa else "eager"  # Gemma 2
    wanted = NAME if packed else own
    if model.config._attn_implementation != wanted:
        model.set_attn_implementation(wanted)


AttentionInterface.register(NAME, document_attention)
