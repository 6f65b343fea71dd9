"""From rows to passes of one constant shape: an equal share of the tokens for each adapter, filled up at its end.

Everything is laid out on the CPU and goes over in one pinned, asynchronous copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from residency.data.messages import Rendered
from residency.engine.batch import TOKENS_MULTIPLE, needed_length, next_length, plan_packs, round_up
from residency.engine.fused import Pass
from residency.engine.products import Slots
from residency.engine.rows import Documents

EVEN_FILL = 0.9
"""Documents count as of one length if the shortest fills at least this share of its room."""


@dataclass(frozen=True, slots=True, eq=False)
class FilledPass:
    tensors: Pass
    owners: NDArray[np.int64]
    """Shape (adapters, targets of each): the caller's index of the row, -1 where filled up."""
    owners_there: torch.Tensor
    """The same, on the device."""
    key: tuple[int, ...]
    """Passes of one key have tensors of the same shapes."""


def passes(
    rows_of: Mapping[Any, Sequence[Rendered]], capacity: int, device: torch.device, *, packing: bool = True,
    coarse: bool = False,
) -> Iterator[FilledPass]:  # fmt: skip
    """Passes of one length, `capacity` tokens at most, over the rows of each adapter, by its number (None alone: the
    base model).

    As many neighbouring adapters share a pass as have room for their longest row; a row longer than `capacity` makes
    its passes that much longer. Few rows make shorter passes, of few different lengths. `coarse` fills the targets up
    generously, so that fewer shapes come up.
    """
    numbers = [number for number in rows_of if number is not None]
    longest = max((needed_length(row) for rows in rows_of.values() for row in rows), default=0)
    at_once = max(1, capacity // max(1, longest))
    for run in _neighbours(sorted(numbers), at_once) if numbers else [[None]]:
        share = round_up(max(capacity // len(run), longest), TOKENS_MULTIPLE)
        lengths = [[needed_length(row) for row in rows_of[number]] for number in run]
        plans = [plan_packs(one, share if packing else 0) for one in lengths]
        fullest = max((sum(one[i] for i in pack) for one, plan in zip(lengths, plans, strict=True) for pack in plan),
                      default=0)  # fmt: skip
        share = min(share, next_length(fullest))
        first = run[0]
        slots = Slots(0, 0) if first is None else Slots(first, len(run))
        for turn in range(max(len(plan) for plan in plans)):
            chosen = [
                [(index, rows_of[number][index]) for index in (plan[turn] if turn < len(plan) else [])]
                for number, plan in zip(run, plans, strict=True)
            ]
            yield _fill(chosen, share, slots, device, share // 4 if coarse else 1)


def _neighbours(numbers: Sequence[int], at_once: int) -> Iterator[list[int]]:
    run: list[int] = []
    for number in numbers:
        if run and (number != run[-1] + 1 or len(run) == at_once):
            yield run
            run = []
        run.append(number)
    yield run


def _room(lengths: list[list[int]], share: int) -> int:
    """The room of each document if all are of about one length, else 0."""
    counts = {len(one) for one in lengths}
    count = counts.pop()
    if counts or count == 0 or share % count:
        return 0
    room = share // count
    flat = [length for one in lengths for length in one]
    return room if max(flat) <= room and min(flat) >= EVEN_FILL * room else 0


def _fill(
    chosen: list[list[tuple[int, Rendered]]], share: int, slots: Slots, device: torch.device, multiple: int
) -> FilledPass:
    total = share * len(chosen)
    lengths = [[needed_length(row) for _, row in rows] for rows in chosen]
    room = _room(lengths, share)
    most = max(1, max(sum(int(row.trained.sum()) for _, row in rows) for rows in chosen))
    most = round_up(round_up(most, multiple), TOKENS_MULTIPLE)
    ids, positions = np.zeros(total, np.int64), np.zeros(total, np.int64)
    predictors, targets = np.zeros((len(chosen), most), np.int64), np.full((len(chosen), most), -1, np.int64)
    owners = np.full((len(chosen), most), -1, np.int64)
    bounds = [0]
    for number, rows in enumerate(chosen):
        at, filled = number * share, 0
        for (index, row), length in zip(rows, lengths[number], strict=True):
            width = room or length
            trained = np.flatnonzero(row.trained)
            here = slice(filled, filled + len(trained))
            ids[at : at + length] = row.input_ids[:length]
            positions[at : at + width] = np.arange(width)
            predictors[number, here], targets[number, here] = trained - 1 + at, row.input_ids[trained]
            owners[number, here] = index
            filled += len(trained)
            at += width
            bounds.append(at)
        if at < (number + 1) * share:
            positions[at : (number + 1) * share] = np.arange((number + 1) * share - at)
            bounds.append((number + 1) * share)
    empty = round_up(len(bounds), TOKENS_MULTIPLE) - len(bounds)
    moved = _move([ids, positions, predictors, targets, np.array(bounds + [total] * empty), owners], device)
    longest = max(np.diff(bounds))
    documents = Documents(
        bounds=tuple(bounds),
        cu_seqlens=moved[4].int(),
        longest=1 << int(longest - 1).bit_length(),
        even=total // room if room else 0,
    )
    return FilledPass(
        tensors=Pass(moved[0], moved[1], documents, moved[2], moved[3], slots),
        owners=owners,
        owners_there=moved[5].view(owners.shape),
        key=(*slots, total, most, len(bounds) + empty, documents.longest, documents.even),
    )


def _move(parts: list[NDArray[np.int64]], device: torch.device) -> tuple[torch.Tensor, ...]:
    together = torch.from_numpy(np.concatenate([part.ravel() for part in parts]))
    if device.type == "cuda":
        together = together.pin_memory().to(device, non_blocking=True)
    return torch.split(together, [part.size for part in parts])
