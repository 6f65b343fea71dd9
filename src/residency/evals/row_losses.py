"""What each row's loss says after training: the rows that the run saw again and again and could not learn.

A wrong answer is learned late or never, because the other rows speak against it (Arpit et al. 2017; Swayamdipta et al.
2020, Dataset Cartography). So is a hard one: the result is a queue for a person, not a list of errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from residency.data.messages import Rendered
from residency.records import RowLosses, RunFolder, Unlearned, UnlearnedRow

QUEUE_SHARE = 0.02
WINDOW_STEPS = 3
LONGEST_TEXT = 600
FILE = "unlearned.json"


def suspicion(
    seen: Sequence[RowLosses], num_rows: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[list[float]]]:
    """(mean excess, fall, losses) of each row.

    The excess is a row's loss above the mean of the rows seen within WINDOW_STEPS of it, so that rows which came early,
    when all losses were high, are not blamed for it. The first time does not count: nothing of the row could have been
    learned yet. The fall is the first excess less the last. Both are NaN for rows that were seen less than twice.
    """
    losses: list[list[float]] = [[] for _ in range(num_rows)]
    excesses: list[list[float]] = [[] for _ in range(num_rows)]
    for record, usual in zip(seen, usual_losses(seen), strict=True):
        for row, loss in zip(record.rows, record.losses, strict=True):
            losses[row].append(loss)
            excesses[row].append(loss - usual)
    often = [len(own) > 1 for own in losses]
    excess = [math.fsum(own[1:]) / (len(own) - 1) if enough else math.nan
              for own, enough in zip(excesses, often, strict=True)]  # fmt: skip
    fall = [own[0] - own[-1] if enough else math.nan for own, enough in zip(excesses, often, strict=True)]
    return np.array(excess), np.array(fall), losses


def usual_losses(seen: Sequence[RowLosses]) -> NDArray[np.float64]:
    """For each step the mean loss of the rows of the steps around it."""
    sums = np.cumsum([0.0, *(math.fsum(record.losses) for record in seen)])
    counts = np.cumsum([0, *(len(record.losses) for record in seen)])
    steps = np.arange(len(seen))
    first, last = np.maximum(steps - WINDOW_STEPS, 0), np.minimum(steps + WINDOW_STEPS + 1, len(seen))
    return np.asarray((sums[last] - sums[first]) / np.maximum(1, counts[last] - counts[first]))


def unlearned_rows(seen: Sequence[RowLosses], num_rows: int) -> tuple[list[int], int]:
    """(the QUEUE_SHARE of the rows with the highest excess, how many rows were judged).

    Whether a row's loss falls in the end says nothing against it: with enough passes a wrong row is learned by heart.
    """
    excess, _, _ = suspicion(seen, num_rows)
    judged = np.flatnonzero(~np.isnan(excess))
    top = judged[np.argsort(-excess[judged], kind="stable")][: math.ceil(QUEUE_SHARE * len(judged))]
    return [int(row) for row in top[excess[top] > 0]], len(judged)


def review_training(run: RunFolder, rows: Sequence[Rendered], decode: Callable[[list[int]], str]) -> Unlearned:
    """Writes the review queue of a finished training into the run's folder and says what it is."""
    seen = run.row_losses()
    queue, judged = unlearned_rows(seen, len(rows))
    excess, _, losses = suspicion(seen, len(rows))
    found = Unlearned(judged=judged, rows=[
        UnlearnedRow(
            origin=str(rows[i].origin),
            losses=[round(loss, 4) for loss in losses[i]],
            excess=round(float(excess[i]), 4),
            text=decode(rows[i].input_ids.tolist())[-LONGEST_TEXT:],
        )
        for i in queue
    ])  # fmt: skip
    run.write(FILE, found)
    if queue:
        origins = [row.origin for row in found.rows]
        run.say("unlearned", f"{len(queue):,} of {judged:,} rows stayed hard to learn; look at them: "
                f"{', '.join(origins[:5])}{' and so on' if len(origins) > 5 else ''}", rows=origins)  # fmt: skip
    return found
