"""How the rows of a pass lie in memory: which documents they are of, and what is left free beside them."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class Documents:
    """Where the documents of a pass lie."""

    bounds: tuple[int, ...]
    """Where each starts, and the last ends."""
    cu_seqlens: torch.Tensor
    """The same on the device, int32; may end in empty documents."""
    longest: int
    """At least the longest one's length."""
    even: int
    """The number of documents, if all have one length; else 0."""


def with_room(tokens: int, width: int, room: int, like: torch.Tensor) -> torch.Tensor:
    """Not set to anything, shape (tokens, width + room)."""
    return torch.empty(tokens, width + room, dtype=like.dtype, device=like.device)
