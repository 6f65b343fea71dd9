"""Rows longer than the model is trained with: one stated policy, and every touched row named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from residency.data.messages import Origin, Rendered
from residency.errors import DataError
from residency.wording import counted

Policy = Literal["drop", "cut_prompt", "cut_answer", "refuse"]


@dataclass(frozen=True, slots=True)
class Fitted:
    kept: list[Rendered] = field(default_factory=list)
    dropped: list[Origin] = field(default_factory=list)
    cut: list[Origin] = field(default_factory=list)


def fit_length(rows: list[Rendered], max_length_tokens: int, policy: Policy, *, bos_id: int | None = None) -> Fitted:
    """`kept` holds the rows of at most `max_length_tokens`, in order; `cut` those of them that were shortened.

    cut_prompt takes tokens from the front (a leading `bos_id` stays), never trained ones nor the last one before
    them; cut_answer from the end. A row that cannot be shortened this way, or would lose all trained tokens, is
    dropped. Raises DataError under `refuse`, with all over-long rows.
    """
    over_long = [row for row in rows if len(row) > max_length_tokens]
    if policy == "refuse" and over_long:
        raise DataError(
            f"longer than {max_length_tokens:,} tokens: {len(over_long):,} of {counted(len(rows), 'row')}",
            param="data.max_length_tokens",
            hint="raise data.max_length_tokens, or choose what happens to them with data.over_long",
            problems=[f"{row.origin}: {len(row):,} tokens" for row in over_long],
        )
    fitted = Fitted()
    for row in rows:
        if len(row) <= max_length_tokens:
            fitted.kept.append(row)
            continue
        shorter = None
        if policy == "cut_prompt":
            shorter = _cut_front(row, max_length_tokens, bos_id)
        elif policy == "cut_answer":
            shorter = _part(row, np.arange(max_length_tokens))
        if shorter is not None and shorter.trained.any():
            fitted.kept.append(shorter)
            fitted.cut.append(row.origin)
        else:
            fitted.dropped.append(row.origin)
    return fitted


def _cut_front(row: Rendered, length: int, bos_id: int | None) -> Rendered | None:
    head = int(row.input_ids[0] == bos_id)
    tail = np.arange(len(row) - length + head, len(row))
    first_trained = int(row.trained.argmax())
    if head + 1 > length or tail[0] >= first_trained:
        return None
    return _part(row, np.concatenate([np.arange(head), tail]))


def _part(row: Rendered, positions: np.ndarray) -> Rendered:
    return Rendered(row.input_ids[positions], row.trained[positions], row.origin)
