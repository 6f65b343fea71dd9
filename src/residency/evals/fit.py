"""Too long, too little or enough: what the training and the held-out loss say of each other, at every evaluation.

The training loss is the mean over the steps since the evaluation before, so it costs nothing to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from residency.records import Metric

Badge = Literal["OK", "WATCH", "OVERFIT"]
WATCH_FROM, OVERFIT_FROM = 0.15, 0.4
"""Gap between held-out and training loss, as a share of the held-out loss; rules of thumb."""
RISE = 1.02
"""The held-out loss has risen where it is above its best by this factor, twice in a row."""
LEARNED_ACCURACY = 0.99
"""Token accuracy on the training rows from which there is nothing more to learn from them."""
STILL_FALLING = 0.05
"""Underfitted: the training loss fell by more than this share between the last two stretches of training."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    step: int
    train_loss: float
    held_out_loss: float
    badge: Badge

    @property
    def gap(self) -> float:
        """As a share of the held-out loss."""
        return (self.held_out_loss - self.train_loss) / max(self.held_out_loss, 1e-9)


@dataclass(frozen=True, slots=True)
class Fit:
    evaluations: list[Evaluation]
    barely: str | None
    """What to change, where the training stopped while the loss was still falling."""

    @property
    def badge(self) -> Badge | None:
        return self.evaluations[-1].badge if self.evaluations else None

    @property
    def warning(self) -> str | None:
        if self.badge != "OVERFIT":
            return None
        last = self.evaluations[-1]
        best = min(self.evaluations, key=lambda one: one.held_out_loss)
        return (
            f"training went on after it had stopped helping (held-out loss {last.held_out_loss:.3f} at step "
            f"{last.step}, {best.held_out_loss:.3f} at its best)"
        )


def judge_fit(metrics: Sequence[Metric]) -> Fit:
    """The badge of every evaluation after the first step, and whether training ended too early."""
    train = [metric for metric in metrics if metric.split == "train"]
    held_out = [metric for metric in metrics if metric.split == "eval" and metric.step > 0]
    found: list[Evaluation] = []
    before = 0
    for metric in held_out:
        since = [one for one in train if before < one.step <= metric.step]
        before = metric.step
        if not since:
            continue
        loss = float(np.average([one.loss for one in since], weights=[max(1, one.tokens) for one in since]))
        accuracy = [one.token_accuracy for one in since if one.token_accuracy is not None]
        losses = [one.held_out_loss for one in found] + [metric.loss]
        found.append(Evaluation(metric.step, loss, metric.loss, badge(losses, loss, accuracy)))
    return Fit(found, barely_adapted(train))


def badge(held_out: Sequence[float], train_loss: float, accuracy: Sequence[float]) -> Badge:
    """`held_out` ends with the present loss."""
    last, best = held_out[-1], min(held_out)
    risen = [loss > best * RISE for loss in held_out[-2:]]
    learned = bool(accuracy) and float(np.mean(accuracy)) >= LEARNED_ACCURACY
    gap = (last - train_loss) / max(last, 1e-9)
    if (len(risen) == 2 and all(risen)) or (learned and last >= best and gap >= OVERFIT_FROM and len(held_out) > 1):
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
