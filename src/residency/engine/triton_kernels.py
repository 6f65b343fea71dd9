"""Triton kernels, each the twin of a function of the same name in `elementwise`; a program handles one token.

Rounding follows transformers: what its modules round to the model's dtype, these round too.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

E4M3_MAX = tl.constexpr(448.0)
COLUMNS, WARPS, STAGES = 64, 4, 2
"""Of the SwiGLU kernels, as measured best."""


@triton.jit
def _store_scaled(quantized, scales, row, width, column, inside, values, amax):  # type: ignore[no-untyped-def]
    scale = tl.maximum(amax, 1e-12) / E4M3_MAX
    tl.store(quantized + row * width + column, (values / scale).to(tl.float8e4nv), inside)
    tl.store(scales + row, scale)


@triton.jit
def _rms_norm(  # type: ignore[no-untyped-def]
    x, weight, y, inverse, quantized, scales, width, epsilon, QUANTIZE: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    values = tl.load(x + row * width + column, inside, 0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(values * values) / width + epsilon)
    normed = (values * factor).to(y.dtype.element_ty).to(tl.float32)
    out = (normed * tl.load(weight + column, inside, 0.0).to(tl.float32)).to(y.dtype.element_ty)
    tl.store(y + row * width + column, out, inside)
    tl.store(inverse + row, factor)
    if QUANTIZE:
        out = out.to(tl.float32)
        _store_scaled(quantized, scales, row, width, column, inside, out, tl.max(tl.abs(out)))


@triton.jit
def _rms_norm_backward(  # type: ignore[no-untyped-def]
    grad, x, weight, inverse, residual, grad_x, width, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    at = row * width + column
    factor = tl.load(inverse + row)
    scale = tl.load(weight + column, inside, 0.0).to(tl.float32)
    normed = tl.load(x + at, inside, 0.0).to(tl.float32) * factor
    scaled = tl.load(grad + at, inside, 0.0).to(tl.float32) * scale
    mean = tl.sum(scaled * normed) / width
    out = factor * (scaled - normed * mean) + tl.load(residual + at, inside, 0.0).to(tl.float32)
    tl.store(grad_x + at, out.to(grad_x.dtype.element_ty), inside)
    again = normed.to(grad.dtype.element_ty).to(tl.float32) * scale
    tl.store(grad + at, again.to(grad.dtype.element_ty), inside)


@triton.jit
def _rotate(source, target, cos, sin, half, pair, heads, HALF: tl.constexpr, HEADS: tl.constexpr):  # type: ignore[no-untyped-def]
    head = tl.arange(0, HEADS)[:, None]
    at = head * (2 * half) + pair[None, :]
    inside = (head < heads) & (pair[None, :] < half)
    first = tl.load(source + at, inside, 0.0).to(tl.float32)
    second = tl.load(source + at + half, inside, 0.0).to(tl.float32)
    tl.store(target + at, (first * cos - second * sin).to(target.dtype.element_ty), inside)
    tl.store(target + at + half, (second * cos + first * sin).to(target.dtype.element_ty), inside)


@triton.jit
def _rope(  # type: ignore[no-untyped-def]
    q, k, v, out, cos, sin, q_row, k_row, v_row, out_row, half, q_heads, k_heads,
    SIGN: tl.constexpr, COPY_V: tl.constexpr, HALF: tl.constexpr, Q: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    pair = tl.arange(0, HALF)
    c = tl.load(cos + row * 2 * half + pair, pair < half, 0.0).to(tl.float32)[None, :]
    s = tl.load(sin + row * 2 * half + pair, pair < half, 0.0).to(tl.float32)[None, :] * SIGN
    target = out + row * out_row
    _rotate(q + row * q_row, target, c, s, half, pair, q_heads, HALF, Q)
    _rotate(k + row * k_row, target + q_heads * 2 * half, c, s, half, pair, k_heads, HALF, K)
    if COPY_V:
        head = tl.arange(0, K)[:, None]
        column = tl.arange(0, 2 * HALF)[None, :]
        at = head * (2 * half) + column
        inside = (head < k_heads) & (column < 2 * half)
        copied = tl.load(v + row * v_row + at, inside, 0.0)
        tl.store(target + (q_heads + k_heads) * 2 * half + at, copied, inside)


@triton.jit
def _update(inner, matrix, row_stride, columns, ranks, inside, RANK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Tiles of `inner @ matrix'`, and the tile of matrix (columns, ranks)."""
    tile = tl.load(matrix + columns[:, None] * row_stride + ranks[None, :],
                   inside[:, None] & (ranks[None, :] < RANK), 0.0)  # fmt: skip
    return tl.dot(inner, tl.trans(tile), input_precision="ieee"), tile


@triton.jit
def _swiglu(  # type: ignore[no-untyped-def]
    gate_up, inner, b, a, h, inner_next, quantized, scales, tokens, tokens_per_slot,
    WIDTH: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr, NEXT: tl.constexpr, NEXTS: tl.constexpr,
    QUANTIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * ROWS
    slot = (first // tokens_per_slot).to(tl.int64)
    row = (first + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    there = row < tokens
    rank, next_rank = tl.arange(0, RANKS), tl.arange(0, NEXTS)
    b += slot * 2 * WIDTH * RANK
    a += slot * NEXT * WIDTH
    if RANK > 0:
        xa = tl.load(inner + row * RANK + rank[None, :], there & (rank[None, :] < RANK), 0.0)
    total = tl.zeros([ROWS, NEXTS], tl.float32)
    highest = tl.zeros([ROWS], tl.float32)
    for start in range(0, WIDTH, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < WIDTH
        both = there & inside[None, :]
        gate = tl.load(gate_up + row * 2 * WIDTH + column[None, :], both, 0.0).to(tl.float32)
        up = tl.load(gate_up + row * 2 * WIDTH + WIDTH + column[None, :], both, 0.0).to(tl.float32)
        if RANK > 0:
            gate += _update(xa, b, RANK, column, rank, inside, RANK)[0]
            up += _update(xa, b + WIDTH * RANK, RANK, column, rank, inside, RANK)[0]
        out = ((gate * tl.sigmoid(gate)).to(h.dtype.element_ty).to(tl.float32) * up).to(h.dtype.element_ty)
        tl.store(h + row * WIDTH + column[None, :], out, both)
        if NEXT > 0:
            tile = tl.load(a + next_rank[:, None] * WIDTH + column[None, :],
                           (next_rank[:, None] < NEXT) & inside[None, :], 0.0)  # fmt: skip
            total += tl.dot(out, tl.trans(tile), input_precision="ieee")
        if QUANTIZE:
            highest = tl.maximum(highest, tl.max(tl.abs(out.to(tl.float32)), 1))
    if NEXT > 0:
        tl.store(inner_next + row * NEXT + next_rank[None, :], total.to(inner_next.dtype.element_ty),
                 there & (next_rank[None, :] < NEXT))  # fmt: skip
    if QUANTIZE:
        _quantize_block(h, quantized, scales, row, there, highest, WIDTH, COLUMNS)


@triton.jit
def _quantize_block(  # type: ignore[no-untyped-def]
    x, quantized, scales, row, there, highest, WIDTH: tl.constexpr, COLUMNS: tl.constexpr
):
    """What this program has just written, once more."""
    scale = tl.maximum(highest, 1e-12)[:, None] / E4M3_MAX
    tl.store(scales + row, scale, there)
    tl.debug_barrier()
    for start in range(0, WIDTH, COLUMNS):
        column = start + tl.arange(0, COLUMNS)[None, :]
        both = there & (column < WIDTH)
        values = tl.load(x + row * WIDTH + column, both, 0.0).to(tl.float32)
        tl.store(quantized + row * WIDTH + column, (values / scale).to(tl.float8e4nv), both)


@triton.jit
def _swiglu_backward(  # type: ignore[no-untyped-def]
    gate_up, grad_h, inner, b, grad_inner_next, a, grad_inner, quantized, scales, tokens, tokens_per_slot,
    WIDTH: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr, NEXT: tl.constexpr, NEXTS: tl.constexpr,
    QUANTIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * ROWS
    slot = (first // tokens_per_slot).to(tl.int64)
    row = (first + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    there = row < tokens
    rank, next_rank = tl.arange(0, RANKS), tl.arange(0, NEXTS)
    b += slot * 2 * WIDTH * RANK
    a += slot * NEXT * WIDTH
    if RANK > 0:
        xa = tl.load(inner + row * RANK + rank[None, :], there & (rank[None, :] < RANK), 0.0)
    if NEXT > 0:
        ga = tl.load(grad_inner_next + row * NEXT + next_rank[None, :], there & (next_rank[None, :] < NEXT), 0.0)
    total = tl.zeros([ROWS, RANKS], tl.float32)
    highest = tl.zeros([ROWS], tl.float32)
    for start in range(0, WIDTH, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < WIDTH
        both = there & inside[None, :]
        at_gate = gate_up + row * 2 * WIDTH + column[None, :]
        at_h = grad_h + row * WIDTH + column[None, :]
        gate = tl.load(at_gate, both, 0.0).to(tl.float32)
        up = tl.load(at_gate + WIDTH, both, 0.0).to(tl.float32)
        grad = tl.load(at_h, both, 0.0).to(tl.float32)
        if RANK > 0:
            update, gate_b = _update(xa, b, RANK, column, rank, inside, RANK)
            gate += update
            update, up_b = _update(xa, b + WIDTH * RANK, RANK, column, rank, inside, RANK)
            up += update
        if NEXT > 0:
            tile = tl.load(a + next_rank[:, None] * WIDTH + column[None, :],
                           (next_rank[:, None] < NEXT) & inside[None, :], 0.0)  # fmt: skip
            grad += tl.dot(ga, tile, input_precision="ieee")
        sigmoid = tl.sigmoid(gate)
        silu = (gate * sigmoid).to(grad_h.dtype.element_ty).to(tl.float32)
        grad_gate = (grad * up * (sigmoid + gate * sigmoid * (1 - sigmoid))).to(gate_up.dtype.element_ty)
        grad_up = (grad * silu).to(gate_up.dtype.element_ty)
        tl.store(at_gate, grad_gate, both)
        tl.store(at_gate + WIDTH, grad_up, both)
        tl.store(at_h, (silu * up).to(grad_h.dtype.element_ty), both)
        if RANK > 0:
            total += tl.dot(grad_gate, gate_b, input_precision="ieee")
            total += tl.dot(grad_up, up_b, input_precision="ieee")
        if QUANTIZE:
            highest = tl.maximum(highest, tl.max(tl.abs(grad_gate.to(tl.float32)), 1))
            highest = tl.maximum(highest, tl.max(tl.abs(grad_up.to(tl.float32)), 1))
    if RANK > 0:
        tl.store(grad_inner + row * RANK + rank[None, :], total.to(grad_inner.dtype.element_ty),
                 there & (rank[None, :] < RANK))  # fmt: skip
    if QUANTIZE:
        _quantize_block(gate_up, quantized, scales, row, there, highest, 2 * WIDTH, COLUMNS)


@triton.jit
def _quantize_rows(x, quantized, scales, x_row, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    values = tl.load(x + row * x_row + column, inside, 0.0).to(tl.float32)
    _store_scaled(quantized, scales, row, width, column, inside, values, tl.max(tl.abs(values)))


@triton.jit
def _cross_entropy(logits, targets, losses, correct, width: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    line = logits + row * width
    target = tl.load(targets + row)
    highest = -float("inf")
    total = 0.0
    best = width
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        values = tl.load(line + column, column < width, -float("inf")).to(tl.float32)
        here = tl.max(values)
        first = tl.min(tl.where(values == here, column, width))
        best = tl.where(here > highest, first, best)
        new = tl.maximum(highest, here)
        total = total * tl.exp(highest - new) + tl.sum(tl.exp(values - new))
        highest = new
    normaliser = highest + tl.log(total)
    counts = target >= 0
    chosen = tl.load(line + tl.maximum(target, 0)).to(tl.float32)
    tl.store(losses + row, tl.where(counts, normaliser - chosen, 0.0))
    tl.store(correct + row, (best == target) & counts)
    if GRADIENT:
        tl.debug_barrier()
        weight = tl.where(counts, 1.0, 0.0)
        for start in range(0, width, BLOCK):
            column = start + tl.arange(0, BLOCK)
            values = tl.load(line + column, column < width, 0.0).to(tl.float32)
            error = (tl.exp(values - normaliser) - tl.where(column == target, 1.0, 0.0)) * weight
            tl.store(line + column, error.to(logits.dtype.element_ty), column < width)


def _block(width: int) -> dict[str, Any]:
    block = triton.next_power_of_2(width)
    return {"BLOCK": block, "num_warps": max(1, min(16, block // 512))}


def _quantized(rows: int, width: int, like: torch.Tensor, wanted: bool) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (rows, width) if wanted else (0, 0)
    return (
        torch.empty(shape, dtype=torch.float8_e4m3fn, device=like.device),
        torch.empty(shape[0], 1, dtype=torch.float32, device=like.device),
    )


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float, quantize: bool) -> tuple[torch.Tensor, ...]:
    rows, width = x.shape
    y, inverse = torch.empty_like(x), torch.empty(rows, dtype=torch.float32, device=x.device)
    q, s = _quantized(rows, width, x, quantize)
    _rms_norm[(rows,)](x, weight, y, inverse, q, s, width, epsilon, QUANTIZE=quantize, **_block(width))
    return y, inverse, q, s


def rms_norm_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, inverse: torch.Tensor, residual: torch.Tensor
) -> torch.Tensor:
    rows, width = x.shape
    grad_x = torch.empty_like(x)
    _rms_norm_backward[(rows,)](grad, x, weight, inverse, residual, grad_x, width, **_block(width))
    return grad_x


def rope(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor,
    sign: float, copy_v: bool,
) -> None:  # fmt: skip
    rows, q_heads, d = q.shape
    pads = {"HALF": triton.next_power_of_2(d // 2), "Q": triton.next_power_of_2(q_heads)}
    _rope[(rows,)](
        q, k, v, out, cos, sin, q.stride(0), k.stride(0), v.stride(0), out.stride(0), d // 2, q_heads, k.shape[1],
        SIGN=sign, COPY_V=copy_v, K=triton.next_power_of_2(k.shape[1]), num_warps=4, **pads,
    )  # fmt: skip


def _tiles(rows: int, slots: int, rank: int, next_rank: int) -> dict[str, Any]:
    at_once = 32 if rows // slots % 32 == 0 else 16
    return {
        "RANK": rank, "RANKS": max(16, triton.next_power_of_2(rank)), "NEXT": next_rank,
        "NEXTS": max(16, triton.next_power_of_2(next_rank)), "ROWS": at_once, "COLUMNS": COLUMNS,
        "num_warps": WARPS, "num_stages": STAGES,
    }  # fmt: skip


def swiglu(
    gate_up: torch.Tensor, inner: torch.Tensor | None, b: torch.Tensor | None, a: torch.Tensor | None, quantize: bool
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]:
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    h = torch.empty(rows, width, dtype=gate_up.dtype, device=gate_up.device)
    slots = 1 if b is None and a is None else len(a if b is None else b)
    inner_next = None if a is None else h.new_empty(rows, a.shape[1])
    q, s = _quantized(rows, width, h, quantize)
    tiles = _tiles(rows, slots, 0 if b is None else b.shape[2], 0 if a is None else a.shape[1])
    _swiglu[(triton.cdiv(rows, tiles["ROWS"]),)](
        gate_up, h if inner is None else inner, h if b is None else b, h if a is None else a, h,
        h if inner_next is None else inner_next, q, s, rows, rows // slots, WIDTH=width, QUANTIZE=quantize, **tiles,
    )  # fmt: skip
    return h, inner_next, q, s


def swiglu_backward(
    gate_up: torch.Tensor, grad_h: torch.Tensor, inner: torch.Tensor | None, b: torch.Tensor | None,
    grad_inner_next: torch.Tensor | None, a: torch.Tensor | None, quantize: bool,
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:  # fmt: skip
    rows, width = grad_h.shape
    slots = 1 if b is None and a is None else len(a if b is None else b)
    grad_inner = None if b is None else grad_h.new_empty(rows, b.shape[2])
    q, s = _quantized(rows, 2 * width, grad_h, quantize)
    tiles = _tiles(rows, slots, 0 if b is None else b.shape[2], 0 if a is None else a.shape[1])
    none = grad_h
    _swiglu_backward[(triton.cdiv(rows, tiles["ROWS"]),)](
        gate_up, grad_h, none if inner is None else inner, none if b is None else b,
        none if grad_inner_next is None else grad_inner_next, none if a is None else a,
        none if grad_inner is None else grad_inner, q, s, rows, rows // slots, WIDTH=width, QUANTIZE=quantize, **tiles,
    )  # fmt: skip
    return grad_inner, q, s


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows, width = x.shape
    q, s = _quantized(rows, width, x, True)
    _quantize_rows[(rows,)](x, q, s, x.stride(0), width, **_block(width))
    return q, s


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor, gradient: bool) -> tuple[torch.Tensor, torch.Tensor]:
    rows, width = logits.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    correct = torch.empty(rows, dtype=torch.bool, device=logits.device)
    _cross_entropy[(rows,)](logits, targets, losses, correct, width, GRADIENT=gradient, BLOCK=8192, num_warps=16)
    return losses, correct
