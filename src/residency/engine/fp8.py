"""A frozen weight in FP8 (e4m3), multiplied in FP8 forward and backward.

One scale for the whole weight serves both directions; activations and gradients get a scale for each row. Adapters
and the head stay in bf16. On a card without FP8 units, and on the CPU, the same numbers are multiplied in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from residency.engine.elementwise import E4M3_MAX, quantize_rows


@dataclass(slots=True)
class Fp8Weight:
    rows: torch.Tensor
    """Shape (out, in), e4m3: what the forward product reads."""
    columns: torch.Tensor
    """Shape (in, out), e4m3: the same numbers turned, since Hopper multiplies only rows by rows."""
    scale: torch.Tensor
    """Shape (1, 1), fp32."""
    like: torch.Tensor
    """Empty; in the dtype of the results."""

    @classmethod
    def of(cls, weight: torch.Tensor, linears: list[nn.Linear]) -> Fp8Weight:
        """Takes the place of the linears' own weights, which are dropped: they multiply by this one from now on."""
        scale = (weight.abs().amax().float() / E4M3_MAX).clamp(min=1e-12).view(1, 1)
        rows = (weight.float() / scale).to(torch.float8_e4m3fn)
        made = cls(rows, rows.T.contiguous(), scale, weight.new_empty(0))
        for one, part in zip(linears, torch.split(rows, [one.out_features for one in linears]), strict=True):
            one.weight = nn.Parameter(part, requires_grad=False)
            one.forward = _Dequantised(part, scale, one.bias)  # type: ignore[method-assign, assignment]
        return made

    def forward(self, x: torch.Tensor, quantized: Any) -> torch.Tensor:
        rows, scales = quantized or quantize_rows(x)
        return _scaled_product(rows, scales, self.rows, self.scale, x.dtype)

    def backward(self, grad: torch.Tensor, quantized: Any) -> torch.Tensor:
        rows, scales = quantized or quantize_rows(grad)
        return _scaled_product(rows, scales, self.columns, self.scale, grad.dtype)


@dataclass(frozen=True, slots=True)
class _Dequantised:
    """The forward of one linear outside training."""

    rows: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, (self.rows.float() * self.scale).to(x.dtype), self.bias)


def _scaled_product(
    rows: torch.Tensor, scales: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """(rows * scales) @ (weight * scale).T"""
    if rows.is_cuda:
        return torch._scaled_mm(
            rows, weight.T, scale_a=scales, scale_b=scale.expand(1, len(weight)).contiguous(), out_dtype=dtype,
            use_fast_accum=True,
        )  # fmt: skip
    return ((rows.float() * scales) @ (weight.float() * scale).T).to(dtype)
