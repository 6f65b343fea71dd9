"""Between the base and the tuned model: theta = base + a * (tuned - base), by forward passes alone.

Averaging the two trades task for retention better than other remedies against forgetting (Lin et al. 2023, arXiv
2309.06256). Training hot and scaling down kept more on the starter model than training at a lower rate did.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from residency.data.messages import Rendered
from residency.engine.divergence import Remembered
from residency.engine.engine import FULL, Engine
from residency.evals.retention import divergence_of
from residency.evals.stats import bootstrap_ratio
from residency.records import ScalePoint, ScaleResult

SHOWN = (1.0, 0.75, 0.5, 0.25)
"""Tried in this order until forgetting is inside the budget, the first three in any case, to show the trade-off."""
BETWEEN = {0.75: 0.9, 0.5: 0.6, 0.25: 0.4}
"""Tried where this scale is the first inside the budget."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What training changed, as a line from the base to the tuned model."""

    engine: Engine
    name: str
    tuned: Mapping[str, torch.Tensor]
    base: Mapping[str, torch.Tensor]

    def set(self, scale: float) -> None:
        self.engine.scale(self.name, scale, self.tuned, self.base)

    @contextmanager
    def at(self, scale: float) -> Iterator[None]:
        """The tuned model again afterwards, to the bit."""
        self.set(scale)
        try:
            yield
        finally:
            self.set(1.0)


def delta_of(engine: Engine, name: str, base: Mapping[str, torch.Tensor]) -> Delta | None:
    """For LoRA the line is straight in its B matrices, which are 0 in the base; for full fine-tuning (`FULL`) in all
    weights, those of `base` at the start. None for adapters whose change is no such line (DoRA, other PEFT methods)."""
    parameters = engine.parameters(name)
    chosen = dict(parameters) if name == FULL else {key: p for key, p in parameters.items() if ".lora_B." in key}
    straight = name == FULL or all(".lora_A." in key or key in chosen for key in parameters)
    if not chosen or not straight:
        return None
    return Delta(engine, name, {key: p.detach().clone() for key, p in chosen.items()}, base if name == FULL else {})


def sweep(
    delta: Delta, held_out: Sequence[Rendered], anchors: Sequence[Remembered], budget: float, *, take: bool
) -> ScaleResult:
    """Tries scales from 1 down until forgetting, which grows with the scale, is inside the budget, then one more
    between there and the scale before. Proposes the largest inside the budget; with `take`, leaves the model there."""
    began = time.monotonic()
    full = losses(delta, held_out, 1.0)
    points: list[ScalePoint] = []
    inside = None
    for scale in SHOWN:
        if inside is not None and scale == SHOWN[-1]:
            break
        points.append(point(delta, held_out, anchors, scale, full))
        if inside is None and points[-1].divergence.value <= budget:
            inside = scale
    if inside in BETWEEN:
        points.append(point(delta, held_out, anchors, BETWEEN[inside], full))
    points.sort(key=lambda one: one.scale)
    fitting = [one for one in points if one.divergence.value <= budget]
    proposed = max((one.scale for one in fitting), default=None)
    chosen = next((one for one in points if one.scale == proposed), None)
    taken = take and proposed is not None and proposed < 1
    if taken and proposed is not None:
        delta.set(proposed)
    return ScaleResult(points=points, proposed=proposed, taken=taken, reason=reason(chosen, points[-1], budget),
                       seconds=time.monotonic() - began)  # fmt: skip


def point(
    delta: Delta, held_out: Sequence[Rendered], anchors: Sequence[Remembered], scale: float, full: NDArray[np.float64]
) -> ScalePoint:
    found = full if scale == 1.0 else losses(delta, held_out, scale)
    sizes = [float(row.trained.sum()) for row in held_out]
    with delta.at(scale):
        divergence, _ = divergence_of(delta.engine, adapter(delta), anchors)
    return ScalePoint(
        scale=scale,
        task_loss=bootstrap_ratio(found.tolist(), sizes),
        loss_against_full=bootstrap_ratio((found - full).tolist(), sizes),
        divergence=divergence,
    )


def losses(delta: Delta, rows: Sequence[Rendered], scale: float) -> NDArray[np.float64]:
    with delta.at(scale):
        scores = delta.engine.logprobs(adapter(delta), rows)
    return np.array([-one.logprobs.sum(dtype=np.float64) for one in scores])


def adapter(delta: Delta) -> str | None:
    return None if delta.name == FULL else delta.name


def reason(chosen: ScalePoint | None, full: ScalePoint, budget: float) -> str:
    if chosen is None:
        return f"no adapter scale down to {SHOWN[-1]:g} holds the budget of {budget:g}"
    if chosen.scale == 1:
        return "the tuned model is inside the budget as it is"
    return (
        f"at scale {chosen.scale:g} forgetting is {chosen.divergence.value:.3f} instead of "
        f"{full.divergence.value:.3f}, and the held-out loss {chosen.task_loss.value:.3f} instead of "
        f"{full.task_loss.value:.3f}"
    )
