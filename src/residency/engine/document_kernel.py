"""Causal attention within each document of a pass, forward and backward, by the fused kernels inside torch.

Documents of one length go to cuDNN (the faster one on Hopper), others to the flash kernel for variable lengths; with
flash-attn-4 installed (`hopper`) all go there. Each reads grouped key and value heads as they are. Elsewhere torch's
SDPA runs document by document, with the same result.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F

from residency.engine import hopper
from residency.engine.rows import Documents

aten = torch.ops.aten
INT32_LIMIT = 2**31


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: Documents, scale: float, for_hopper: bool = False
) -> tuple[torch.Tensor, tuple[Any, ...]]:
    """q (tokens, heads, d), k and v (tokens, kv_heads, d). Returns (tokens, heads, d), and what `backward` needs.

    `for_hopper`: by the kernels of `hopper`, which are to be there.
    """
    if not q.is_cuda:
        return _by_sdpa(q, k, v, documents, scale), ()
    if for_hopper:
        _check_size(q, documents)
        kept = hopper.attend(q, k, v, documents, scale)
        return kept[0], kept
    if documents.even:
        out, lse, cu_q, cu_k, max_q, max_k, seed, offset, _ = aten._scaled_dot_product_cudnn_attention(
            *(_batch(x, documents.even) for x in (q, k, v)), None, True, 0.0, True, False, scale=scale
        )
        return out.transpose(1, 2).reshape(q.shape), (out, lse, seed, offset, cu_q, cu_k, max_q, max_k)
    _check_size(q, documents)
    cu, longest = documents.cu_seqlens, documents.longest
    out, lse, state, unused, _ = aten._flash_attention_forward(
        q, k, v, cu, cu, longest, longest, 0.0, True, False, scale=scale
    )
    return out, (out, lse, state, unused)


def attend_backward(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: Documents, scale: float,
    kept: tuple[Any, ...], for_hopper: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """The gradients for q, k, v, from `grad` (tokens, heads, d)."""
    if not q.is_cuda:
        with torch.enable_grad():
            q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
            out = _by_sdpa(q, k, v, documents, scale)
            grad_q, grad_k, grad_v = torch.autograd.grad(out, (q, k, v), grad)
            return grad_q, grad_k, grad_v
    if for_hopper:
        return hopper.attend_backward(grad, q, k, v, documents, scale, (kept[0], kept[1]))
    if documents.even:
        out, lse, seed, offset, cu_q, cu_k, max_q, max_k = kept
        grads = aten._scaled_dot_product_cudnn_attention_backward(
            *(_batch(x, documents.even) for x in (grad, q, k, v)), out, lse, seed, offset, None, cu_q, cu_k, max_q,
            max_k, 0.0, True, scale=scale,
        )  # fmt: skip
        grad_q, grad_k, grad_v = (g.transpose(1, 2).flatten(0, 1) for g in grads)
        return grad_q, grad_k, grad_v
    out, lse, state, unused = kept
    cu, longest = documents.cu_seqlens, documents.longest
    return aten._flash_attention_backward(  # type: ignore[no-any-return]
        grad, q, k, v, out, lse, cu, cu, longest, longest, 0.0, True, state, unused, scale=scale
    )


def _batch(x: torch.Tensor, documents: int) -> torch.Tensor:
    """(tokens, heads, d) as (documents, heads, length, d), without a copy."""
    return x.view(documents, -1, *x.shape[1:]).transpose(1, 2)


def _check_size(q: torch.Tensor, documents: Documents) -> None:
    """The kernel's backward pass counts its scratch memory in 32 bits."""
    tokens, heads, d = q.shape
    if (tokens + 128 * len(documents.cu_seqlens)) * heads * (d + 31) // 32 * 32 >= INT32_LIMIT:
        raise ValueError(f"{tokens} tokens in {len(documents.cu_seqlens)} documents are too many for one pass")


def _by_sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: Documents, scale: float) -> torch.Tensor:
    outputs = []
    for start, end in itertools.pairwise(documents.bounds):
        one, two, three = (x[None, start:end].transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(one, two, three, is_causal=True, scale=scale, enable_gqa=True)
        outputs.append(out.transpose(1, 2)[0])
    return torch.cat(outputs)
