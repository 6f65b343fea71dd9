"""A frozen weight in FP8 (e4m3), multiplied in FP8 forward and backward.

One scale for the whole weight serves both directions; activations and gradients get a scale for each row. Adapters
and the head stay in bf16. On a card without FP8 units, and on the CPU, the same numbers are multiplied in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from residency.engine.elementwise import E4M3_MAX, quantize_rows, turn
from residency.engine.frozen import Workspace, side_by_side


class Fp8Weight:
    """Takes the place of the linears' own weights, which are dropped: they multiply by this one from now on."""

    def __init__(self, linears: list[nn.Linear], workspace: Workspace) -> None:
        weight = side_by_side(linears)[0]
        self.shape = weight.shape
        self.like = weight.new_empty(0)
        """In the dtype of the results."""
        self.scale = (weight.abs().amax().float() / E4M3_MAX).clamp(min=1e-12).view(1, 1)
        """Shape (1, 1), fp32."""
        self.rows = (weight.float() / self.scale).to(torch.float8_e4m3fn)
        """Shape (out, in): the one copy that is stored."""
        self.workspace = workspace
        workspace.fit(self.rows.nbytes, weight.device)
        for one, part in zip(linears, torch.split(self.rows, [one.out_features for one in linears]), strict=True):
            one.weight = nn.Parameter(part, requires_grad=False)
            one.forward = _Dequantised(part, self.scale, one.bias)  # type: ignore[method-assign, assignment]

    def forward(self, x: torch.Tensor, quantized: Any) -> torch.Tensor:
        rows, scales = quantized or quantize_rows(x)
        return _scaled_product(rows, scales, self.rows, self.scale, x.dtype)

    def backward(self, grad: torch.Tensor, quantized: Any) -> torch.Tensor:
        """Hopper multiplies rows by rows in FP8 and nothing else, so the weight is turned first."""
        rows, scales = quantized or quantize_rows(grad)
        columns = turn(self.rows, self.workspace.view(self.shape[1], self.shape[0], self.rows.dtype))
        return _scaled_product(rows, scales, columns, self.scale, grad.dtype)


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
