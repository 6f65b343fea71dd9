"""How far a model has moved from what the base expected: forward KL, from the base's stored likeliest tokens.

Of each base distribution p the TOP_K likeliest tokens are kept, and the mass of all others as one bucket, so that what
moves out there counts too. With q the model's distribution, K those tokens and P, Q the masses outside:

    KL = sum over K of p (log p - log q) + P (log P - log Q)
    d KL / d logit = q - p inside K, and q (1 - P / Q) outside

so the gradient needs no graph through the logits, and is formed chunk by chunk as in `loss.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.autograd.function import once_differentiable

from residency.data.messages import Rendered
from residency.engine.loss import CHUNK_ROWS

TOP_K = 64
IMPOSSIBLE = -1e4
"""The logarithm of a probability that is 0, and still finite."""
SMALLEST = 1e-12
"""A tail of less mass counts as this much, so that its logarithm is finite."""


@dataclass(frozen=True, slots=True, eq=False)
class Distributions:
    """What a model expected at each of some tokens."""

    token_ids: NDArray[np.int32]
    """Shape (tokens, TOP_K): the likeliest first."""
    logprobs: NDArray[np.float32]
    """Shape (tokens, TOP_K), in nats."""
    log_tail: NDArray[np.float32]
    """Shape (tokens,): log of the mass of all other tokens."""

    def __len__(self) -> int:
        return len(self.log_tail)

    def part(self, which: Any) -> Distributions:
        return Distributions(self.token_ids[which], self.logprobs[which], self.log_tail[which])


@dataclass(frozen=True, slots=True, eq=False)
class Remembered:
    """A row, and what the base expected at each of its trained tokens."""

    row: Rendered
    base: Distributions


class Expected(NamedTuple):
    """Distributions as tensors, one place for each target of a pass, and what each target's divergence counts."""

    token_ids: torch.Tensor
    """Shape (targets, TOP_K)."""
    logprobs: torch.Tensor
    log_tail: torch.Tensor
    weight: torch.Tensor
    """Shape (targets,); 0 where a place is filled up."""

    @classmethod
    def of(cls, base: Distributions, weight: float, places: int) -> Expected:
        """Filled up to `places` with places of no probability, which diverge by 0."""
        filled = ((0, places - len(base)), (0, 0))
        parts = (
            np.pad(base.token_ids, filled).astype(np.int64),
            np.pad(base.logprobs, filled, constant_values=IMPOSSIBLE),
            np.pad(base.log_tail, filled[0], constant_values=IMPOSSIBLE),
            np.where(np.arange(places) < len(base), np.float32(weight), np.float32(0)),
        )
        return cls(*map(torch.from_numpy, parts))

    def in_place(self, logits: torch.Tensor, rows: slice) -> torch.Tensor:
        """Each target's divergence; the weighted gradient takes the place of `logits`, those of the targets `rows`."""
        ids, logprobs, log_tail = self.token_ids[rows], self.logprobs[rows], self.log_tail[rows]
        each, error = _chunk(logits.float(), ids, logprobs, log_tail, gradient=True)
        assert error is not None
        logits.copy_(error.mul_(self.weight[rows, None]))
        return each


def join(parts: Sequence[Distributions]) -> Distributions:
    return Distributions(
        np.concatenate([part.token_ids for part in parts]),
        np.concatenate([part.logprobs for part in parts]),
        np.concatenate([part.log_tail for part in parts]),
    )


@torch.no_grad()
def top_k(outputs: torch.Tensor, head: nn.Linear | None) -> Distributions:
    """outputs (tokens, width) with a head, or logits (tokens, vocabulary) without."""
    ids, logprobs, tails = [], [], []
    for start in range(0, len(outputs), CHUNK_ROWS):
        logits = _logits(outputs[start : start + CHUNK_ROWS], head)
        scores = logits.sub_(logits.logsumexp(dim=1, keepdim=True))
        kept, chosen = scores.topk(min(TOP_K, scores.shape[1]), dim=1)
        tail = scores.exp_().scatter_(1, chosen, 0.0).sum(dim=1)
        ids.append(chosen.int().cpu().numpy())
        logprobs.append(kept.cpu().numpy())
        tails.append(tail.clamp(min=SMALLEST).log().cpu().numpy())
    return Distributions(np.concatenate(ids), np.concatenate(logprobs), np.concatenate(tails))


@torch.no_grad()
def logprobs_of(outputs: torch.Tensor, head: nn.Linear | None, tokens: NDArray[np.int64]) -> torch.Tensor:
    """outputs as in `top_k`, tokens (outputs, choices). How likely each choice is, in nats, in memory of the CPU."""
    found = []
    for start in range(0, len(outputs), CHUNK_ROWS):
        logits = _logits(outputs[start : start + CHUNK_ROWS], head)
        ids = torch.from_numpy(tokens[start : start + CHUNK_ROWS]).to(logits.device)
        found.append((logits.gather(1, ids) - logits.logsumexp(dim=1, keepdim=True)).cpu())
    return torch.cat(found)


def divergence(outputs: torch.Tensor, head: nn.Linear | None, base: Distributions) -> tuple[torch.Tensor, torch.Tensor]:
    """outputs as in `top_k`. Returns the summed KL(base || model) in nats (it carries the gradient), and without
    gradient each token's, shape (tokens,)."""
    device = outputs.device
    ids = torch.from_numpy(base.token_ids).to(device, torch.long)
    logprobs, log_tail = (torch.from_numpy(part).to(device, torch.float32) for part in (base.logprobs, base.log_tail))
    weight = None if head is None else head.weight
    return _Divergence.apply(outputs, weight, ids, logprobs, log_tail)  # type: ignore[no-any-return,no-untyped-call]


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        outputs: torch.Tensor,
        weight: torch.Tensor | None,
        ids: torch.Tensor,
        logprobs: torch.Tensor,
        log_tail: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wants_outputs, wants_weight = ctx.needs_input_grad[:2]
        each = torch.empty(len(outputs), device=outputs.device, dtype=torch.float32)
        grad_outputs = torch.empty_like(outputs) if wants_outputs else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight and weight is not None else None
        for start in range(0, len(outputs), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            logits = (outputs[rows] if weight is None else outputs[rows] @ weight.to(outputs.dtype).T).float()
            gradient = wants_outputs or wants_weight
            each[rows], error = _chunk(logits, ids[rows], logprobs[rows], log_tail[rows], gradient=gradient)
            if error is None:
                continue
            error = error.to(outputs.dtype)
            if grad_outputs is not None:
                grad_outputs[rows] = error if weight is None else error @ weight.to(error.dtype)
            if grad_weight is not None:
                grad_weight += error.T @ outputs[rows]
        ctx.save_for_backward(grad_outputs, grad_weight)
        ctx.weight_dtype = None if weight is None else weight.dtype
        ctx.mark_non_differentiable(each)
        return each.sum(), each

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        grad_outputs, grad_weight = ctx.saved_tensors
        if grad_outputs is not None:
            grad_outputs = grad_outputs * grad.to(grad_outputs.dtype)
        if grad_weight is not None:
            grad_weight = (grad_weight * grad).to(ctx.weight_dtype)
        return grad_outputs, grad_weight, None, None, None


def _chunk(
    logits: torch.Tensor, ids: torch.Tensor, logprobs: torch.Tensor, log_tail: torch.Tensor, *, gradient: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """logits (tokens, vocabulary) in fp32. Each token's divergence, and its gradient for the logits."""
    normaliser, p, tail = logits.logsumexp(dim=1, keepdim=True), logprobs.exp(), log_tail.exp()
    kept = logits.gather(1, ids) - normaliser
    if gradient:
        q = (logits - normaliser).exp_()
        outside = q.scatter(1, ids, 0.0).sum(dim=1).clamp(min=SMALLEST)
    else:  # one pass over the vocabulary less; what rounding leaves of a small mass counts for nothing
        outside = (1 - kept.exp().sum(dim=1)).clamp(min=SMALLEST)
    each = (p * (logprobs - kept)).sum(dim=1) + tail * (log_tail - outside.log())
    if not gradient:
        return each, None
    inside = kept.exp() - p
    return each, q.mul_((1 - tail / outside)[:, None]).scatter_(1, ids, inside)


def _logits(outputs: torch.Tensor, head: nn.Linear | None) -> torch.Tensor:
    logits = outputs if head is None else outputs @ head.weight.to(outputs.dtype).T
    return logits.float().clone() if head is None else logits.float()
