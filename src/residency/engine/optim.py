"""AdamW and the learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch

from residency.config.steps import LONGEST_WARMUP_STEPS

Schedule = Literal["linear", "cosine", "constant", "wsd"]

WSD_DECAY_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class StepSettings:
    """What one optimizer step of one adapter uses."""

    learning_rate: float
    weight_decay: float = 0.0
    max_grad_norm: float | None = 1.0


def learning_rate_at(step: int, total: int, peak: float, schedule: Schedule, warmup_share: float) -> float:
    """The rate of step `step` (from 0) of `total`: a linear rise to `peak`, then the schedule; linear and cosine end
    one step above zero, so that every step changes something. WSD: arXiv 2405.18392."""
    warmup = min(LONGEST_WARMUP_STEPS, math.ceil(warmup_share * total))
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    remaining = (total - step) / max(1, total - warmup)
    match schedule:
        case "constant":
            return peak
        case "linear":
            return peak * remaining
        case "cosine":
            return peak * 0.5 * (1 - math.cos(math.pi * remaining))
        case "wsd":
            decay_steps = max(1, math.ceil(WSD_DECAY_SHARE * total))
            return peak * min(1.0, (total - step) / decay_steps)


def adamw(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.AdamW:
    """The learning rate and weight decay are set at every step."""
    trained = list(parameters)
    on_gpu = any(p.is_cuda for p in trained)
    return torch.optim.AdamW(
        trained, lr=0.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, fused=True, capturable=on_gpu
    )


def step_sizes(optimizer: torch.optim.AdamW, settings: StepSettings) -> None:
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate
        group["weight_decay"] = settings.weight_decay
