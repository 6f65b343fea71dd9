"""Each row's loss whenever training meets it, at no extra pass; and the rows that a run could not learn.

The file has four bytes for each place in the order of training: a step that is repeated after a resume writes to the
same places. Losses that stay high while the others fall mark wrong, contradicting and unanswerable rows (Swayamdipta et
al. 2020, 2009.10795), and among them right ones that are merely hard: a queue for a person, nothing more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from residency import durable
from residency.data.audit.private import mask_private
from residency.data.audit.table import text_of
from residency.data.messages import Example, Rendered
from residency.methods.order import order_of_epoch
from residency.records import HardRow, HardRows, RunFolder

FILE = "row_losses.f32"
AROUND = 201
"""A loss is compared with the median of so many around it in the order of training, for all fall with time."""
MOST_SHARE, FEWEST_ROWS = 0.02, 50
LONGEST_TEXT = 200
DEVIATIONS = 3.0
"""A row joins the queue where its mean excess is so many robust standard deviations above the usual."""


def note_losses(run: RunFolder, step: int, batch: Sequence[Rendered], sums: NDArray[np.float64]) -> None:
    """Keeps the mean loss of each row's trained tokens; all steps have as many rows as this one."""
    tokens = np.array([max(1, int(row.trained.sum())) for row in batch])
    path = run / FILE
    with durable.disk_errors(path), path.open("r+b" if path.exists() else "w+b") as file:
        file.seek(4 * step * len(batch))
        file.write((sums / tokens).astype("<f4").tobytes())


def write_hard_rows(
    run: RunFolder, rows: Sequence[Rendered], examples: Sequence[Example], seed: int
) -> HardRows | None:
    """Writes and returns the queue; null where training met too few rows to tell. `examples` have the rows' texts."""
    if not (run / FILE).exists() or len(rows) < FEWEST_ROWS:
        return None
    losses, excess = by_row(np.fromfile(run / FILE, "<f4"), len(rows), seed)
    met = np.flatnonzero(np.isfinite(losses).any(axis=0))
    if len(met) < FEWEST_ROWS:
        return None
    example_of = {example.origin: example for example in examples}
    # Canaries are trained on too, and nobody wrote them.
    queue = [i for i in met[hardest(excess[:, met])] if rows[i].origin in example_of]
    hard = [
        HardRow(
            row=str(rows[i].origin),
            text=shortened(example_of[rows[i].origin]),
            excess=float(np.nanmean(excess[:, i])),
            losses=[None if math.isnan(loss) else round(float(loss), 4) for loss in losses[:, i]],
        )
        for i in queue
    ]
    found = HardRows(rows_met=len(met), epochs=len(losses), rows=hard)
    run.write("hard_rows.json", found)
    return found


def shortened(example: Example) -> str:
    """How its last prompt and its answer begin, with nothing private in it."""
    texts = [example.text] if example.text else [text_of(message) for message in example.messages[-2:]]
    masked = (" ".join(mask_private((text or "")[: 2 * LONGEST_TEXT]).split()) for text in texts)
    return " -> ".join(text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} ..." for text in masked)


def by_row(flat: NDArray[np.float32], count: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(losses, excess over the usual loss at that time), each of shape (epochs, rows), NaN where a row was not met."""
    known = np.where(flat > 0, flat, np.nan)
    usual = median_filter(flat, size=min(AROUND, len(flat)), mode="nearest")
    epochs = math.ceil(len(flat) / count)
    losses, excess = np.full((2, epochs, count), np.nan)
    for epoch in range(epochs):
        part = slice(epoch * count, (epoch + 1) * count)
        order = order_of_epoch(epoch, count, seed)[: len(flat[part])]
        losses[epoch, order], excess[epoch, order] = known[part], known[part] - usual[part]
    return losses, excess


def hardest(excess: NDArray[np.float64]) -> NDArray[np.int64]:
    """The columns far above the others in the mean over the epochs, at most MOST_SHARE of them, the hardest first.

    A row that was met twice and whose excess fell more than the median row's was learned, late, and is left out.
    """
    mean = np.nanmean(excess, axis=0)
    middle = np.median(mean)
    spread = 1.4826 * np.median(np.abs(mean - middle)) + 1e-6
    twice = np.isfinite(excess).sum(axis=0) > 1
    falls = np.array([column[seen][0] - column[seen][-1] for column in excess.T for seen in [np.isfinite(column)]])
    learned = twice & (falls > np.median(falls[twice]) if twice.any() else False) & (falls > 0.5 * mean)
    order = np.argsort(-mean, kind="stable")[: math.ceil(MOST_SHARE * len(mean))]
    return np.asarray(order[(mean[order] > middle + DEVIATIONS * spread) & ~learned[order]])
