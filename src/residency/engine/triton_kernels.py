# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call, import-not-found, import-untyped"
# ruff: noqa: N803 -- compile-time constants are in capitals, as everywhere in Triton
"""Triton kernels, each the twin of a function of the same name in `elementwise`; a program handles one token.

Rounding follows transformers: what its modules round to the model's dtype, these round too.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from residency.engine.rows import with_room

E4M3_MAX = tl.constexpr(448.0)
SWIGLU_TILE, SWIGLU_TILE_FP8 = (32, 128), (64, 64)
"""Rows and columns of a program, measured best on an H200 (with 4 warps)."""


@triton.jit
def _store_scaled(quantized, scales, row, width, column, inside, values, amax):
    scale = tl.maximum(amax, 1e-12) / E4M3_MAX
    tl.store(quantized + row * width + column, (values / scale).to(tl.float8e4nv), inside)
    tl.store(scales + row, scale)


@triton.jit
def _turn(matrix, out, rows, columns, TILE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    column = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    tile = tl.load(matrix + row[:, None] * columns + column[None, :], inside, 0)
    tl.store(out + column[:, None] * rows + row[None, :], tl.trans(tile), tl.trans(inside))


@triton.jit
def _rms_norm(
    x, delta, weight, total, y, inverse, quantized, scales, delta_row, y_row, width, epsilon,
    ADD: tl.constexpr, QUANTIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    values = tl.load(x + row * width + column, inside, 0.0).to(tl.float32)
    if ADD:
        values += tl.load(delta + row * delta_row + column, inside, 0.0).to(tl.float32)
        rounded = values.to(total.dtype.element_ty)
        tl.store(total + row * width + column, rounded, inside)
        values = rounded.to(tl.float32)
    factor = tl.rsqrt(tl.sum(values * values) / width + epsilon)
    normed = (values * factor).to(y.dtype.element_ty).to(tl.float32)
    out = (normed * tl.load(weight + column, inside, 0.0).to(tl.float32)).to(y.dtype.element_ty)
    tl.store(y + row * y_row + column, out, inside)
    tl.store(inverse + row, factor)
    if QUANTIZE:
        out = out.to(tl.float32)
        _store_scaled(quantized, scales, row, width, column, inside, out, tl.max(tl.abs(out)))


@triton.jit
def _rms_norm_backward(
    grad, x, weight, inverse, residual, grad_x, residual_row, grad_x_row, width, BLOCK: tl.constexpr
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
    beside = tl.load(residual + row * residual_row + column, inside, 0.0).to(tl.float32)
    out = factor * (scaled - normed * mean) + beside
    tl.store(grad_x + row * grad_x_row + column, out.to(grad_x.dtype.element_ty), inside)
    again = normed.to(grad.dtype.element_ty).to(tl.float32) * scale
    tl.store(grad + at, again.to(grad.dtype.element_ty), inside)


@triton.jit
def _rotate(source, target, cos, sin, half, pair, heads, HALF: tl.constexpr, HEADS: tl.constexpr):
    head = tl.arange(0, HEADS)[:, None]
    at = head * (2 * half) + pair[None, :]
    inside = (head < heads) & (pair[None, :] < half)
    first = tl.load(source + at, inside, 0.0).to(tl.float32)
    second = tl.load(source + at + half, inside, 0.0).to(tl.float32)
    tl.store(target + at, (first * cos - second * sin).to(target.dtype.element_ty), inside)
    tl.store(target + at + half, (second * cos + first * sin).to(target.dtype.element_ty), inside)


@triton.jit
def _rope(
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
def _added(x, inner, row, there, matrix, across, ranks, column, inside, RANK: tl.constexpr):
    """The tile x plus `inner @ matrix'`; `across` and `ranks` are the matrix's steps from column to column and from
    rank to rank."""
    rank = tl.arange(0, RANK)
    left = tl.load(inner + row[:, None] * RANK + rank[None, :], there[:, None], 0.0)
    right = tl.load(matrix + rank[:, None] * ranks + column[None, :] * across, inside[None, :], 0.0)
    return x + tl.dot(left, right, input_precision="ieee")


@triton.jit
def _swiglu(
    gate_up, inner, b, h, highest, tokens, tokens_per_slot, width, gate_up_row, h_row,
    RANK: tl.constexpr, QUANTIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    slot = (tl.program_id(1) * ROWS // tokens_per_slot).to(tl.int64)
    row = (tl.program_id(1) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    there, inside = row < tokens, column < width
    both = there[:, None] & inside[None, :]
    at_gate = gate_up + row[:, None] * gate_up_row + column[None, :]
    gate = tl.load(at_gate, both, 0.0).to(tl.float32)
    up = tl.load(at_gate + width, both, 0.0).to(tl.float32)
    if RANK > 0:
        b += slot * 2 * width * RANK
        gate = _added(gate, inner, row, there, b, RANK, 1, column, inside, RANK)
        up = _added(up, inner, row, there, b + width * RANK, RANK, 1, column, inside, RANK)
    out = ((gate * tl.sigmoid(gate)).to(h.dtype.element_ty).to(tl.float32) * up).to(h.dtype.element_ty)
    tl.store(h + row[:, None] * h_row + column[None, :], out, both)
    if QUANTIZE:
        tl.atomic_max(highest + row, tl.max(tl.abs(out.to(tl.float32)), 1), there, sem="relaxed")


@triton.jit
def _swiglu_backward(
    gate_up, grad_h, inner, b, grad_inner_next, a, highest, tokens, tokens_per_slot, width, gate_up_row,
    RANK: tl.constexpr, NEXT: tl.constexpr, QUANTIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    slot = (tl.program_id(1) * ROWS // tokens_per_slot).to(tl.int64)
    row = (tl.program_id(1) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    there, inside = row < tokens, column < width
    both = there[:, None] & inside[None, :]
    at_gate = gate_up + row[:, None] * gate_up_row + column[None, :]
    at_h = grad_h + row[:, None] * width + column[None, :]
    gate = tl.load(at_gate, both, 0.0).to(tl.float32)
    up = tl.load(at_gate + width, both, 0.0).to(tl.float32)
    grad = tl.load(at_h, both, 0.0).to(tl.float32)
    if RANK > 0:
        b += slot * 2 * width * RANK
        gate = _added(gate, inner, row, there, b, RANK, 1, column, inside, RANK)
        up = _added(up, inner, row, there, b + width * RANK, RANK, 1, column, inside, RANK)
    if NEXT > 0:
        grad = _added(grad, grad_inner_next, row, there, a + slot * NEXT * width, 1, width, column, inside, NEXT)
    sigmoid = tl.sigmoid(gate)
    silu = (gate * sigmoid).to(grad_h.dtype.element_ty).to(tl.float32)
    grad_gate = (grad * up * (sigmoid + gate * sigmoid * (1 - sigmoid))).to(gate_up.dtype.element_ty)
    grad_up = (grad * silu).to(gate_up.dtype.element_ty)
    tl.store(at_gate, grad_gate, both)
    tl.store(at_gate + width, grad_up, both)
    tl.store(at_h, (silu * up).to(grad_h.dtype.element_ty), both)
    if QUANTIZE:
        most = tl.maximum(tl.abs(grad_gate.to(tl.float32)), tl.abs(grad_up.to(tl.float32)))
        tl.atomic_max(highest + row, tl.max(most, 1), there, sem="relaxed")


@triton.jit
def _quantize(x, quantized, highest, scales, tokens, width, x_row, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = (tl.program_id(1) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    both = (row < tokens) & (column < width)
    scale = tl.maximum(tl.load(highest + row, row < tokens, 1.0), 1e-12) / E4M3_MAX
    tl.store(scales + row, scale, (row < tokens) & (tl.program_id(0) == 0))
    values = tl.load(x + row * x_row + column, both, 0.0).to(tl.float32)
    tl.store(quantized + row * width + column, (values / scale).to(tl.float8e4nv), both)


@triton.jit
def _copy_scaled(sources, targets, rows, columns, source_steps, target_steps, scales, BLOCK: tl.constexpr,
                 TO: tl.constexpr):  # fmt: skip
    """Many matrices in fp32, each times its scale, to other places in the type TO."""
    entry = tl.program_id(0)
    width, height = tl.load(columns + entry), tl.load(rows + entry)
    source = tl.load(sources + entry).to(tl.pointer_type(tl.float32))
    target = tl.load(targets + entry).to(tl.pointer_type(TO))
    source_step, target_step = tl.load(source_steps + entry), tl.load(target_steps + entry)
    scale = tl.load(scales + entry)
    for start in range(tl.program_id(1) * BLOCK, width * height, BLOCK * tl.num_programs(1)):
        place = start + tl.arange(0, BLOCK)
        row, column = place // width, place % width
        inside = place < width * height
        values = tl.load(source + row * source_step + column, inside, 0.0) * scale
        tl.store(target + row * target_step + column, values.to(TO), inside)


@triton.jit
def _quantize_rows(x, quantized, scales, x_row, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    values = tl.load(x + row * x_row + column, inside, 0.0).to(tl.float32)
    _store_scaled(quantized, scales, row, width, column, inside, values, tl.max(tl.abs(values)))


@triton.jit
def _cross_entropy(logits, targets, losses, correct, width: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr):
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


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, epsilon: float, quantize: bool, delta: torch.Tensor | None, room: int
) -> tuple[torch.Tensor, ...]:
    rows, width = x.shape
    y, inverse = with_room(rows, width, room, x), torch.empty(rows, dtype=torch.float32, device=x.device)
    total = x if delta is None else torch.empty_like(x)
    q, s = _quantized(rows, width, x, quantize)
    given = x if delta is None else delta
    _rms_norm[(rows,)](
        x, given, weight, total, y, inverse, q, s, given.stride(0), y.stride(0), width, epsilon,
        ADD=delta is not None, QUANTIZE=quantize, **_block(width),
    )  # fmt: skip
    return total, y, inverse, q, s


def rms_norm_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, inverse: torch.Tensor, residual: torch.Tensor, room: int
) -> torch.Tensor:
    rows, width = x.shape
    grad_x = with_room(rows, width, room, x)
    steps = residual.stride(0), grad_x.stride(0)
    _rms_norm_backward[(rows,)](grad, x, weight, inverse, residual, grad_x, *steps, width, **_block(width))
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


def _grid(rows: int, slots: int, width: int, quantize: bool) -> tuple[tuple[int, int], dict[str, int]]:
    """A tile's rows belong to one adapter."""
    most, columns = SWIGLU_TILE_FP8 if quantize else SWIGLU_TILE
    at_once = next(size for size in (64, 32, 16) if size == 16 or (size <= most and rows // slots % size == 0))
    tiles = {"ROWS": at_once, "COLUMNS": columns, "num_warps": 4}
    return (triton.cdiv(width, columns), triton.cdiv(rows, at_once)), tiles


def _rank(matrix: torch.Tensor | None, dim: int) -> int:
    return 0 if matrix is None else matrix.shape[dim]


def _quantize_with(x: torch.Tensor, highest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows, width = x.shape
    q, s = _quantized(rows, width, x, len(highest) > 0)
    if len(highest):
        grid, tiles = _grid(rows, 1, width, True)
        _quantize[grid](x, q, highest, s, rows, width, x.stride(0), **tiles)
    return q, s


def swiglu(
    gate_up: torch.Tensor, inner: torch.Tensor | None, b: torch.Tensor | None, quantize: bool, room: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    h = with_room(rows, width, room, gate_up)
    highest = torch.zeros(rows if quantize else 0, device=h.device)
    slots = 1 if b is None else len(b)
    grid, tiles = _grid(rows, slots, width, quantize)
    _swiglu[grid](
        gate_up, h if inner is None else inner, h if b is None else b, h, highest, rows, rows // slots, width,
        gate_up.stride(0), h.stride(0), RANK=_rank(b, 2), QUANTIZE=quantize, **tiles,
    )  # fmt: skip
    return h, *_quantize_with(h[:, :width], highest)


def swiglu_backward(
    gate_up: torch.Tensor, grad_h: torch.Tensor, inner: torch.Tensor | None, b: torch.Tensor | None,
    grad_inner_next: torch.Tensor | None, a: torch.Tensor | None, quantize: bool,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    rows, width = grad_h.shape
    highest = torch.zeros(rows if quantize else 0, device=grad_h.device)
    slots = len(b) if b is not None else len(a) if a is not None else 1
    grid, tiles = _grid(rows, slots, width, quantize)
    given = [grad_h if one is None else one for one in (inner, b, grad_inner_next, a)]
    _swiglu_backward[grid](
        gate_up, grad_h, *given, highest, rows, rows // slots, width, gate_up.stride(0),
        RANK=_rank(b, 2), NEXT=_rank(a, 1), QUANTIZE=quantize, **tiles,
    )  # fmt: skip
    return _quantize_with(gate_up, highest)


class CopyTable:
    """Copies many matrices (fp32) into others, each times its scale, in one launch."""

    def __init__(self, pairs: list[tuple[torch.Tensor, torch.Tensor, float]]) -> None:
        device = pairs[0][0].device
        self._kept = [(source, target) for source, target, _ in pairs]
        table = [[s.data_ptr(), t.data_ptr(), *s.shape, s.stride(0), t.stride(0)] for s, t, _ in pairs]
        self._columns = torch.tensor(table, dtype=torch.int64, device=device).T.contiguous()
        self._scales = torch.tensor([scale for *_, scale in pairs], device=device)
        self._to = tl.bfloat16 if pairs[0][1].dtype == torch.bfloat16 else tl.float32

    def run(self) -> None:
        _copy_scaled[(len(self._kept), 8)](*self._columns, self._scales, BLOCK=1024, TO=self._to)


def turn(matrix: torch.Tensor, out: torch.Tensor) -> None:
    rows, columns = matrix.shape
    tile = 128
    grid = (triton.cdiv(rows, tile), triton.cdiv(columns, tile))
    _turn[grid](matrix.view(torch.uint8), out.view(torch.uint8), rows, columns, TILE=tile, num_warps=8)


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
