"""Which weights these are, however they were named: the key under which what is known of a model is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import torch
from torch import nn

PARTS = 64


def fingerprint(model: nn.Module, *, without: Collection[nn.Parameter] = ()) -> str:
    """SHA-256 over names, shapes, types and sums of the bits of every weight in PARTS parts. Integers are added, so it
    is the same on every device; a model that differs in a weight has another one, contrived cases aside.

    `without` names parameters that were added to the model (an adapter's).
    """
    added, found = {id(parameter) for parameter in without}, hashlib.sha256()
    weights = {name.replace("base_layer.", ""): p for name, p in model.named_parameters() if id(p) not in added}
    for name, tensor in sorted(weights.items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        for part in bits(tensor).chunk(PARTS):
            found.update(int(part.sum(dtype=torch.int64)).to_bytes(16, "big", signed=True))
    return found.hexdigest()


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The values' bits as integers, one-dimensional."""
    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(sizes[flat.element_size()]) if flat.numel() else flat.to(torch.int64)
