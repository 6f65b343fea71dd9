"""Too long, too little or enough: what the training and the held-out loss say of each other, at every evaluation.

The training loss is the mean over the steps since the evaluation before, so it costs nothing to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from residency.records import Badge, Metric

WATCH_FROM, OVERFIT_FROM = 0.15, 0.4
"""Gap between held-out and training loss, as a share of the held-out loss; rules of thumb."""
RISE = 1.02
"""The held-out loss has risen where it is above its best by this factor, twice in a row."""
FLAT = 0.995
"""It stands still where it is not below its best by this factor."""
LEARNED_ACCURACY = 0.99
"""Token accuracy on the training rows from which there is nothing more to learn from them."""
STILL_FALLING = 0.05
"""Underfitted: the training loss fell by more than this share between the last two stretches of training."""


@dataclass(frozen=True, slots=True)
class Fit:
    evaluations: list[Metric]
    """Those with a badge."""
    barely: str | None
    """What to change, where the training stopped while the loss was still falling."""

    @property
    def badge(self) -> Badge | None:
        return self.evaluations[-1].badge if self.evaluations else None

    @property
    def warning(self) -> str | None:
        if self.badge != "OVERFIT":
            return None
        last, best = self.evaluations[-1], min(self.evaluations, key=lambda one: one.loss)
        return (
            f"training went on after it had stopped helping (held-out loss {last.loss:.3g} at step {last.step}, "
            f"{best.loss:.3g} at step {best.step}, whose weights are the result)"
        )


def judge_fit(metrics: Sequence[Metric]) -> Fit:
    """The badges of all evaluations, and whether training ended too early."""
    evaluations = [metric for metric in metrics if metric.split == "eval" and metric.badge]
    return Fit(evaluations, barely_adapted([metric for metric in metrics if metric.split == "train"]))


def badge(held_out: Sequence[float], train_loss: float, accuracy: float) -> Badge:
    """`held_out` are the held-out losses since the first step, the present one last; `train_loss` and `accuracy` are of
    the steps since the one before."""
    last, before = held_out[-1], held_out[:-1]
    gap = (last - train_loss) / max(last, 1e-9)
    risen = len(before) > 1 and min(held_out[-2:]) > min(held_out) * RISE
    still = bool(before) and last >= min(before) * FLAT
    if risen or (still and accuracy >= LEARNED_ACCURACY and gap >= OVERFIT_FROM):
        return "OVERFIT"
    return "WATCH" if gap >= WATCH_FROM else "OK"


def barely_adapted(train: Sequence[Metric]) -> str | None:
    """Compares the last fifth of the steps with the fifth before."""
    stretch = len(train) // 5
    if stretch < 3:
        return None
    last, before = (
        float(np.mean([one.loss for one in part])) for part in (train[-stretch:], train[-2 * stretch : -stretch])
    )
    if last > before * (1 - STILL_FALLING):
        return None
    return (
        f"The training loss was still falling when the steps were over ({before:.3f} to {last:.3f} over the last "
        f"{stretch} steps): train longer (train.epochs), or at a higher rate (train.learning_rate x 3)."
    )
