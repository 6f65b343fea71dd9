"""From rows to the tensors of one pass: several rows in one line, each attending only to itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from residency.data.messages import Rendered


@dataclass(frozen=True, slots=True)
class Segment:
    """The tokens `[start, end)` of a pass belong to this adapter (None: to the base model)."""

    adapter: str | None
    start: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """One pass through the model over `total` tokens of several documents."""

    input_ids: torch.Tensor
    """Shape (1, total)."""
    position_ids: torch.Tensor
    """Shape (1, total); restarts at 0 with every document."""
    cu_seqlens: torch.Tensor
    """Shape (documents + 1,), int32: where each document starts and the last ends."""
    bounds: tuple[int, ...]
    """The same numbers for the CPU."""
    predictors: torch.Tensor
    """Shape (trained,): the positions whose next token carries loss."""
    targets: torch.Tensor
    """Shape (trained,): those next tokens."""
    row_of_target: torch.Tensor
    """Shape (trained,): which of the packed rows each target belongs to."""
    segments: tuple[Segment, ...]
    """In the order of the tokens, without gaps."""
    rows: tuple[int, ...]
    """The caller's index of each packed row."""


def plan_packs(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Puts rows into as few passes of at most `capacity` tokens as first-fit-decreasing finds.

    A row longer than `capacity` gets a pass of its own. Returns row indices, each list in ascending order, so that
    the result does not depend on anything but the lengths.
    """
    free: list[int] = []
    packs: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fits = next((p for p, room in enumerate(free) if room >= lengths[index]), None)
        if fits is None:
            free.append(capacity)
            packs.append([])
            fits = len(packs) - 1
        free[fits] -= lengths[index]
        packs[fits].append(index)
    return [sorted(pack) for pack in packs]


def needed_length(row: Rendered) -> int:
    """Tokens of the row that must pass through the model: those before its last target."""
    trained = np.flatnonzero(row.trained)
    return int(trained[-1]) if len(trained) else len(row)


def collate(groups: Mapping[str | None, Sequence[tuple[int, Rendered]]], device: torch.device) -> Pack:
    """Lays the rows of each adapter behind one another, as `(the caller's index, row)`.

    What follows a row's last target predicts nothing and is left out; causal attention makes that exact.
    """
    ids, positions, predictors, targets, owners = [], [], [], [], []
    bounds = [0]
    segments: list[Segment] = []
    rows: list[int] = []
    for adapter, members in groups.items():
        start = bounds[-1]
        for index, row in members:
            length = needed_length(row)
            trained = np.flatnonzero(row.trained)
            ids.append(row.input_ids[:length])
            positions.append(np.arange(length))
            predictors.append(trained - 1 + bounds[-1])
            targets.append(row.input_ids[trained])
            owners.append(np.full(len(trained), len(rows)))
            bounds.append(bounds[-1] + length)
            rows.append(index)
        segments.append(Segment(adapter, start, bounds[-1]))

    def tensor(parts: Sequence[np.ndarray], dtype: torch.dtype = torch.long) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(parts)).to(device=device, dtype=dtype, non_blocking=True)

    return Pack(
        input_ids=tensor(ids)[None],
        position_ids=tensor(positions)[None],
        cu_seqlens=tensor([np.array(bounds)], torch.int32),
        bounds=tuple(bounds),
        predictors=tensor(predictors),
        targets=tensor(targets),
        row_of_target=tensor(owners),
        segments=tuple(segments),
        rows=tuple(rows),
    )
