"""Kernels for Hopper out of installed packages: attention of flash-attn-4, and SwiGLU inside the products around it of
quack-kernels (`pip install residency[hopper]`). On a CPU the same work is done in plain torch.

Neither package has a public function for a backward pass without autograd; torch calls these private ones of
flash-attn-4 too, and the extra pins both.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from residency.engine.rows import Documents

PACKAGES = {"flash_attn.cute": "flash-attn-4", "quack": "quack-kernels"}


def lacking() -> str | None:
    """Why these kernels cannot run here; None if they can."""
    if torch.cuda.get_device_capability()[0] != 9:
        return "the card is no Hopper"
    missing = [name for module, name in PACKAGES.items() if not _found(module)]
    return f"{' and '.join(missing)} not installed (pip install 'residency[hopper]')" if missing else None


def _found(module: str) -> bool:
    parents = module.split(".")[:-1]
    return all(importlib.util.find_spec(one) for one in (*parents, module))


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: Documents, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `document_kernel.attend`; what is needed for the backward pass is the log-sum-exp."""
    from flash_attn.cute.interface import _flash_attn_fwd

    given = (_by_document(x, documents) for x in (q, k, v))
    out, lse, *_ = _flash_attn_fwd(*given, softmax_scale=scale, causal=True, return_lse=True, **_bounds(documents))
    return out.view(q.shape), lse


def attend_backward(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: Documents, scale: float,
    kept: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """`kept` is what `attend` returned."""
    from flash_attn.cute.interface import _flash_attn_bwd

    out, lse = kept
    given = [_by_document(x, documents) for x in (q, k, v, out, grad)]
    grads = _flash_attn_bwd(*given, lse, softmax_scale=scale, causal=True, **_bounds(documents))
    grad_q, grad_k, grad_v = (one.view(like.shape) for one, like in zip(grads, (q, k, v), strict=False))
    return grad_q, grad_k, grad_v


def _by_document(x: torch.Tensor, documents: Documents) -> torch.Tensor:
    return x.view(documents.even, -1, *x.shape[1:]) if documents.even else x


def _bounds(documents: Documents) -> dict[str, Any]:
    cu_seqlens, longest = documents.cu_seqlens, documents.longest
    return {} if documents.even else {
        "cu_seqlens_q": cu_seqlens, "cu_seqlens_k": cu_seqlens, "max_seqlen_q": longest, "max_seqlen_k": longest,
    }  # fmt: skip


def swiglu(x: torch.Tensor, weight: torch.Tensor, gate_up: torch.Tensor, h: torch.Tensor) -> None:
    """x weight' into gate_up (tokens, 2 * width), where gate and up alternate, and silu(gate) * up into h."""
    if x.is_cuda:
        from quack.gemm_interface import gemm_gated

        gemm_gated(x, weight.T, activation="swiglu", preact_out=gate_up, postact_out=h, config=_tiles())
        return
    torch.mm(x, weight.T, out=gate_up)
    torch.mul(F.silu(gate_up[:, ::2]), gate_up[:, 1::2], out=h)


def swiglu_backward(grad: torch.Tensor, weight: torch.Tensor, gate_up: torch.Tensor, h: torch.Tensor) -> None:
    """From the gradient grad weight for h: puts the one for gate_up in its place, and h, formed again, into h."""
    if grad.is_cuda:
        from quack.gemm_interface import gemm_dgated

        gemm_dgated(
            grad, weight, gate_up, activation="swiglu", dx_out=gate_up, postact_out=h, config=_tiles(),
            dynamic_scheduler=False,
        )  # fmt: skip
        return
    gate, up, grad_h = gate_up[:, ::2].clone(), gate_up[:, 1::2].clone(), grad @ weight
    sigmoid = gate.sigmoid()
    torch.mul(gate * sigmoid, up, out=h)
    torch.mul(grad_h * up, sigmoid + gate * sigmoid * (1 - sigmoid), out=gate_up[:, ::2])
    torch.mul(grad_h, gate * sigmoid, out=gate_up[:, 1::2])


@cache
def _tiles() -> Any:
    """The fastest by far of those tried on an H100; the package's own search over all takes minutes."""
    from quack.gemm_config import GemmConfig

    return GemmConfig(
        tile_m=128, tile_n=192, pingpong=True, cluster_m=2, cluster_n=1, device_capacity=9, is_dynamic_persistent=False
    )
