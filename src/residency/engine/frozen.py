"""Frozen weights held in another form than products take, and the memory in which they are formed for one product."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass(slots=True)
class Workspace:
    """Room for one weight, whichever is needed next. What is in it is valid until the next one is formed."""

    bytes: torch.Tensor | None = field(default=None, repr=False)

    def fit(self, size: int, device: torch.device) -> None:
        """To be called for every weight before the first pass: recorded passes keep the place they were given."""
        if self.bytes is None or len(self.bytes) < size:
            self.bytes = torch.empty(size, dtype=torch.uint8, device=device)

    def view(self, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
        assert self.bytes is not None
        return self.bytes[: rows * columns * dtype.itemsize].view(dtype).view(rows, columns)


class Nf4Weight:
    """Linears side by side, each in bitsandbytes' NF4 storage (arXiv 2305.14314); formed in full for every product."""

    def __init__(self, linears: list[nn.Linear], workspace: Workspace) -> None:
        self.linears = linears
        self.workspace = workspace
        first: Any = linears[0].weight
        self.like = torch.empty(0, dtype=first.quant_state.dtype, device=first.device)
        self.shape = (sum(one.out_features for one in linears), linears[0].in_features)
        workspace.fit(self.shape[0] * self.shape[1] * self.like.itemsize, first.device)

    def matrix(self) -> torch.Tensor:
        """Shape (out, in), in the dtype of the products."""
        from bitsandbytes.functional import dequantize_4bit

        whole = self.workspace.view(*self.shape, self.like.dtype)
        for one, part in zip(self.linears, torch.split(whole, [one.out_features for one in self.linears]), strict=True):
            weight: Any = one.weight
            if whole.is_cuda:
                dequantize_4bit(weight.data, weight.quant_state, out=part)
            else:
                part.copy_(dequantize_4bit(weight.data, weight.quant_state))
        return whole


def is_nf4(linear: nn.Module) -> bool:
    """Whether this is bitsandbytes' 4-bit linear, in NF4."""
    return (
        type(linear).__name__ == "Linear4bit"
        and getattr(getattr(linear.weight, "quant_state", None), "quant_type", None) == "nf4"
    )


def side_by_side(
    linears: list[nn.Linear], border: int = 0, copies: int = 1, *, alternating: bool = False
) -> torch.Tensor:  # fmt: skip
    """The weights as one tensor, beside zeros `border` wide, shape (copies, out + border, in + border). Each linear
    keeps its own part of the first. Their rows come one linear after the other, or alternate."""
    first = linears[0].weight.detach()
    out, width = sum(one.out_features for one in linears), linears[0].in_features
    if len(linears) == 1 and not border:
        return first[None]
    whole = first.new_zeros(copies, out + border, width + border)
    for one, part in zip(linears, shares(whole[0, :out, :width], linears, alternating=alternating), strict=True):
        one.weight.data = part.copy_(one.weight)
    whole[1:] = whole[0]
    return whole


def shares(rows: torch.Tensor, linears: list[nn.Linear], *, alternating: bool) -> tuple[torch.Tensor, ...]:
    """Each linear's rows of a matrix that has a row for every output of all of them."""
    if alternating:
        return tuple(rows[place :: len(linears)] for place in range(len(linears)))
    return torch.split(rows, [one.out_features for one in linears])
