"""Cross-entropy of the trained tokens alone, without ever holding all logits.

The head multiplies only the hidden states that predict a trained token, in chunks. Each chunk's gradient is formed
while its logits are there, so the backward pass needs no logits and no second product with the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.autograd.function import once_differentiable

CHUNK_ROWS = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """One row's trained tokens under a model."""

    logprobs: NDArray[np.float32]
    """Shape (trained,), in nats."""
    correct: NDArray[np.bool_]
    """Shape (trained,): whether the token was the first choice."""


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        losses = torch.empty(len(targets), device=hidden.device, dtype=torch.float32)
        correct = torch.empty(len(targets), device=hidden.device, dtype=torch.bool)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        for start in range(0, len(targets), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            logits = (hidden[rows] @ weight.T).float()
            chosen = targets[rows, None]
            normaliser = logits.logsumexp(dim=1, keepdim=True)
            losses[rows] = (normaliser - logits.gather(1, chosen)).squeeze(1)
            correct[rows] = logits.argmax(dim=1) == targets[rows]
            if grad_hidden is None and grad_weight is None:
                continue
            error = logits.sub_(normaliser).exp_()
            error.scatter_add_(1, chosen, error.new_full(chosen.shape, -1.0))
            error = error.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = error @ weight
            if grad_weight is not None:
                grad_weight += error.T @ hidden[rows]
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        ctx.mark_non_differentiable(losses, correct)
        return losses.sum(), losses, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = grad_hidden * grad_output.to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight = (grad_weight * grad_output).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None


def linear_cross_entropy(
    hidden: torch.Tensor, head: nn.Linear, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """hidden (trained, width), targets (trained,). Returns the sum of the losses in nats (it carries the gradient), and
    without gradient each target's loss and whether it was the first choice."""
    return _LinearCrossEntropy.apply(hidden, head.weight, targets)  # type: ignore[no-any-return,no-untyped-call]


def logits_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same for models whose head does more than a product (soft-capping, scaling, an adapter on it)."""
    losses = nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return losses.sum(), losses.detach(), logits.argmax(dim=1) == targets
