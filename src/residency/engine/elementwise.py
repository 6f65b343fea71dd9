"""The work between the matrix products, in plain torch; on a GPU each function hands over to its Triton twin.

Shapes: tokens come first and are flat. `quantize` adds what an FP8 product needs: the rows in e4m3, and the scale of
each row, shape (tokens, 1), so that `row = quantized * scale`. Rows may lie further apart than they are wide; `room`
columns stay free beside those that a function makes (`products` says for what).
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F

from residency.engine.rows import with_room

E4M3_MAX = 448.0


def _triton(x: torch.Tensor) -> ModuleType | None:
    if not x.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return None
    from residency.engine import triton_kernels

    return triton_kernels


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x (tokens, width): its rows in e4m3, and each row's scale."""
    if kernels := _triton(x):
        return kernels.quantize_rows(x)  # type: ignore[no-any-return]
    scale = x.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12) / E4M3_MAX
    return (x.float() / scale).to(torch.float8_e4m3fn), scale


def turn(matrix: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Writes the transpose of an e4m3 matrix (rows, columns) into `out` (columns, rows), and returns it."""
    if kernels := _triton(matrix):
        kernels.turn(matrix, out)
        return out
    return out.copy_(matrix.T)


def _quantized(x: torch.Tensor, wanted: bool) -> tuple[torch.Tensor, torch.Tensor]:
    return quantize_rows(x) if wanted else (x.new_empty(0, 0), x.new_empty(0, 1))


class Normed(NamedTuple):
    total: torch.Tensor
    """What was normed, shape (tokens, width)."""
    rows: torch.Tensor
    """Shape (tokens, width + room)."""
    inverse: torch.Tensor
    """Each row's factor, shape (tokens,), fp32."""
    quantized: torch.Tensor
    scales: torch.Tensor


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, epsilon: float, quantize: bool = False, *,
    delta: torch.Tensor | None = None, room: int = 0,
) -> Normed:  # fmt: skip
    """Norms x + delta, both (tokens, width); without `delta`, x itself."""
    if kernels := _triton(x):
        return Normed(*kernels.rms_norm(x, weight, epsilon, quantize, delta, room))
    total = x if delta is None else x + delta[:, : x.shape[1]]
    inverse = torch.rsqrt(total.float().square().mean(dim=1) + epsilon)
    rows = with_room(len(x), x.shape[1], room, x)
    y = rows[:, : x.shape[1]].copy_(weight * (total.float() * inverse[:, None]).to(x.dtype))
    return Normed(total, rows, inverse, *_quantized(y, quantize))


def rms_norm_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, inverse: torch.Tensor, residual: torch.Tensor,
    *, room: int = 0,
) -> torch.Tensor:  # fmt: skip
    """The gradient for x, plus `residual`, shape (tokens, width + room). Leaves the normed rows, formed again, in the
    place of `grad`."""
    if kernels := _triton(x):
        return kernels.rms_norm_backward(grad, x, weight, inverse, residual, room)  # type: ignore[no-any-return]
    normed = x.float() * inverse[:, None]
    scaled = grad.float() * weight.float()
    mean = (scaled * normed).mean(dim=1, keepdim=True)
    grad_x = with_room(len(x), x.shape[1], room, x)
    grad_x[:, : x.shape[1]] = inverse[:, None] * (scaled - normed * mean) + residual[:, : x.shape[1]].float()
    grad.copy_(weight * normed.to(x.dtype))
    return grad_x


def rope(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor,
    *, inverse: bool = False,
) -> None:  # fmt: skip
    """Turns q (tokens, heads, d) and k by their positions' angles (tokens, d) into out (tokens, all heads * d).

    v is copied behind them, unless `out` holds it already.
    """
    sign, copy_v = -1.0 if inverse else 1.0, v.data_ptr() != out.data_ptr() + _offset(q, k) * out.element_size()
    if kernels := _triton(q):
        kernels.rope(q, k, v, out, cos, sin, sign, copy_v)
        return
    half = q.shape[2] // 2
    c, s = cos[:, None, :half].float(), sin[:, None, :half].float() * sign
    turned = []
    for x in (q, k):
        first, second = x[..., :half].float(), x[..., half:].float()
        turned.append(torch.cat([first * c - second * s, second * c + first * s], dim=2).to(x.dtype))
    out.copy_(torch.cat([x.flatten(1) for x in (*turned, v)], dim=1))


def _offset(q: torch.Tensor, k: torch.Tensor) -> int:
    return (q.shape[1] + k.shape[1]) * q.shape[2]


def batched(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """x (tokens, in), w (count, in, out): the i-th share of the rows times w[i]."""
    return (x.view(len(w), -1, x.shape[1]) @ w).flatten(0, 1)


def swiglu(
    gate_up: torch.Tensor, inner: torch.Tensor | None, b: torch.Tensor | None, quantize: bool, *, room: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """h = silu(gate) * up of gate_up + inner b', gate_up (tokens, 2 * width), which itself stays as it is.

    b (adapters, 2 * width, rank) and `inner` (tokens, rank) are the update of the adapters on gate and up; without b,
    gate_up has it already. The rank must be a power of two from 16 on. Returns h, and its quantized rows and scales.
    """
    if kernels := _triton(gate_up):
        return kernels.swiglu(gate_up, inner, b, quantize, room)  # type: ignore[no-any-return]
    gate, up = _updated(gate_up, inner, b).chunk(2, dim=1)
    rows = with_room(len(gate), gate.shape[1], room, gate)
    h = torch.mul(F.silu(gate), up, out=rows[:, : gate.shape[1]])
    return rows, *_quantized(h, quantize)


def swiglu_backward(
    gate_up: torch.Tensor, grad_h: torch.Tensor, inner: torch.Tensor | None, b: torch.Tensor | None,
    grad_inner_next: torch.Tensor | None, a: torch.Tensor | None, quantize: bool,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """From the gradient grad_h + grad_inner_next a: puts the gradient for gate_up in its place, and h, formed again,
    in the place of grad_h. Returns the gradient for gate_up quantized."""
    if kernels := _triton(gate_up):
        return kernels.swiglu_backward(  # type: ignore[no-any-return]
            gate_up, grad_h, inner, b, grad_inner_next, a, quantize
        )
    gate, up = (part.float() for part in _updated(gate_up, inner, b).chunk(2, dim=1))
    grad = _updated(grad_h, grad_inner_next, None if a is None else a.mT).float()
    sigmoid = gate.sigmoid()
    silu = (gate * sigmoid).to(grad_h.dtype).float()
    grad_gate = grad * up * (sigmoid + gate * sigmoid * (1 - sigmoid))
    grad_gate_up = torch.cat([grad_gate, grad * silu], dim=1)
    grad_h.copy_(silu * up)
    gate_up.copy_(grad_gate_up)
    return _quantized(gate_up, quantize)


def _updated(x: torch.Tensor, inner: torch.Tensor | None, b: torch.Tensor | None) -> torch.Tensor:
    return x if inner is None or b is None else x + batched(inner, b.mT)


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor, gradient: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's loss in nats and whether its target was the first choice; a target below 0 counts for nothing.

    With `gradient`, the loss's gradient takes the place of `logits`.
    """
    if kernels := _triton(logits):
        return kernels.cross_entropy(logits, targets, gradient)  # type: ignore[no-any-return]
    counts, chosen = targets >= 0, targets.clamp(min=0)[:, None]
    values = logits.float()
    normaliser = values.logsumexp(dim=1, keepdim=True)
    losses = (normaliser - values.gather(1, chosen)).squeeze(1).where(counts, 0.0)
    correct = (values.argmax(dim=1) == targets) & counts
    if gradient:
        error = values.sub_(normaliser).exp_() if values is not logits else (values - normaliser).exp_()
        error.scatter_add_(1, chosen, error.new_full(chosen.shape, -1.0))
        logits.copy_(error.mul_(counts[:, None]))
    return losses, correct
