"""From rows to the tensors of one pass: several rows in one line, each attending only to itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from residency.data.messages import Rendered

SHORTEST_PREFIX = 8
TOKENS_MULTIPLE = 16
"""FP8 products need it, and others run faster with it."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The tokens `[start, end)` of a pass belong to this adapter (None: to the base model)."""

    adapter: str | None
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Document:
    """The tokens `[start, end)` of a pass attend to each other, and to the `prefix` they go on from."""

    start: int
    end: int
    prefix: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """One pass through the model over `total` tokens of several documents."""

    input_ids: torch.Tensor
    """Shape (1, total)."""
    position_ids: torch.Tensor
    """Shape (1, total); restarts with every document."""
    documents: tuple[Document, ...]
    """In the order of the tokens, without gaps."""
    predictors: torch.Tensor
    """Shape (trained,): the positions whose next token carries loss."""
    targets: torch.Tensor
    """Shape (trained,): those next tokens."""
    row_of_target: torch.Tensor
    """Shape (trained,): the index in `rows` of the row each target belongs to."""
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


def split_evenly(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """The rows in `parts` passes of nearly equal length, the longest first to the shortest pass; no pass is empty."""
    passes: list[list[int]] = [[] for _ in range(min(parts, len(lengths)))]
    totals = [0] * len(passes)
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        shortest = totals.index(min(totals))
        passes[shortest].append(index)
        totals[shortest] += lengths[index]
    return [sorted(one) for one in passes]


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def next_length(tokens: int) -> int:
    """`tokens` or up to a quarter more: four lengths between a power of two and the next."""
    return round_up(tokens, max(TOKENS_MULTIPLE, (1 << max(0, tokens - 1).bit_length()) // 8))


def needed_length(row: Rendered) -> int:
    """Tokens of the row that must pass through the model: those before its last target."""
    trained = np.flatnonzero(row.trained)
    return int(trained[-1]) if len(trained) else len(row)


def shared_prefix(rows: Sequence[Rendered]) -> int:
    """Tokens that all rows begin with and none trains on; 0 where passing them once would save nothing."""
    if len(rows) < 2:
        return 0
    limit = min(int(row.trained.argmax()) if row.trained.any() else len(row) - 1 for row in rows)
    same = np.ones(limit, dtype=np.bool_)
    for row in rows[1:]:
        same &= row.input_ids[:limit] == rows[0].input_ids[:limit]
    length = limit if same.all() else int(same.argmin())
    return length if length >= SHORTEST_PREFIX else 0


def collate(
    groups: Mapping[str | None, Sequence[tuple[int, Rendered]]], device: torch.device, *, share_prefix: bool = False
) -> Pack:
    """Lays the rows of each adapter behind one another, as `(the caller's index, row)`.

    What follows a row's last target predicts nothing and is left out; causal attention makes that exact. With
    `share_prefix`, what an adapter's rows all begin with (a system turn) stands there once and each row goes on from
    it: the same sums, for fewer tokens.
    """
    ids, positions, predictors, targets, owners = [], [], [], [], []
    documents: list[Document] = []
    segments: list[Segment] = []
    rows: list[int] = []
    total = 0
    for adapter, members in groups.items():
        start = total
        shared = shared_prefix([row for _, row in members]) if share_prefix else 0
        if shared:
            ids.append(members[0][1].input_ids[:shared])
            positions.append(np.arange(shared))
            documents.append(Document(total, total := total + shared))
        for index, row in members:
            length = needed_length(row)
            trained = np.flatnonzero(row.trained)
            ids.append(row.input_ids[shared:length])
            positions.append(np.arange(shared, length))
            predicting = trained - 1
            predictors.append(np.where(predicting < shared, start + predicting, total + predicting - shared))
            targets.append(row.input_ids[trained])
            owners.append(np.full(len(trained), len(rows)))
            prefix = (start, start + shared) if shared else None
            if length > shared:
                documents.append(Document(total, total := total + length - shared, prefix))
            rows.append(index)
        segments.append(Segment(adapter, start, total))

    def tensor(parts: Sequence[NDArray[Any]]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(parts)).to(device=device, dtype=torch.long)

    return Pack(
        input_ids=tensor(ids)[None],
        position_ids=tensor(positions)[None],
        documents=tuple(documents),
        predictors=tensor(predictors),
        targets=tensor(targets),
        row_of_target=tensor(owners),
        segments=tuple(segments),
        rows=tuple(rows),
    )


def filled(pack: Pack, length: int) -> Pack:
    """The same pass with `length` tokens: one more document, which nothing is read from, of the last adapter."""
    total = pack.input_ids.shape[1]
    if length <= total:
        return pack
    more = torch.arange(length - total, device=pack.input_ids.device)[None]
    return replace(
        pack,
        input_ids=torch.cat([pack.input_ids, torch.zeros_like(more)], dim=1),
        position_ids=torch.cat([pack.position_ids, more], dim=1),
        documents=(*pack.documents, Document(total, length)),
        segments=(*pack.segments[:-1], replace(pack.segments[-1], end=length)),
    )
