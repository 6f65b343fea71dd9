"""What AdamW trains as one vector for each of value, gradient and moments: a step then takes a few launches.

Parameters, gradients and the optimizer's state stay where they are looked for, as parts of those vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.adamw import adamw

from residency.engine.optim import StepSettings

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """Each of shape (all weights,), in the dtype of the parameters."""

    values: torch.Tensor
    gradients: torch.Tensor
    moments: tuple[torch.Tensor, torch.Tensor]
    steps: torch.Tensor
    """Shape (parameters,), fp32: steps taken so far, as many for each."""

    def copy(self) -> Vectors:
        """Without the gradients, which the next step forms anew."""
        first, second = self.moments
        return Vectors(
            self.values.clone(), self.gradients.new_empty(0), (first.clone(), second.clone()), self.steps.clone()
        )

    @torch.no_grad()
    def put_back(self, copy: Vectors) -> None:
        """To the bit, in the same places."""
        own, others = ([self.values, *self.moments, self.steps], [copy.values, *copy.moments, copy.steps])
        torch._foreach_copy_(own, others)


def as_vectors(optimizer: torch.optim.AdamW) -> Vectors:
    """Moves everything that the optimizer trains."""
    parameters = _trained(optimizer)
    like = torch.cat([p.detach().flatten() for p in parameters])
    vectors = Vectors(
        like, torch.zeros_like(like), (torch.zeros_like(like), torch.zeros_like(like)),
        torch.zeros(len(parameters), device=like.device),
    )  # fmt: skip
    parts = zip(parameters, _parts(vectors.values, parameters), _parts(vectors.gradients, parameters), strict=True)
    for parameter, value, gradient in parts:
        parameter.data, parameter.grad = value, gradient
    take_over(optimizer, vectors)
    return vectors


@torch.no_grad()
def take_over(optimizer: torch.optim.AdamW, vectors: Vectors) -> None:
    """Copies the optimizer's state from where somebody has put another one; none counts as zeros."""
    parameters = _trained(optimizer)
    given = {"step": list(vectors.steps), **{key: _parts(moment, parameters) for key, moment in _moments(vectors)}}
    for key, parts in given.items():
        for parameter, part in zip(parameters, parts, strict=True):
            state = optimizer.state[parameter]
            part.copy_(state.get(key, part.new_zeros(())))
            state[key] = part


@torch.no_grad()
def step(
    optimizer: torch.optim.AdamW, vectors: Vectors, settings: StepSettings, rate: torch.Tensor, factor: torch.Tensor
) -> torch.Tensor:
    """One step with the gradients times `factor`, at `rate`, both of shape (). Returns their norm before clipping;
    where it is not finite, nothing changes."""
    gradients, group = vectors.gradients.mul_(factor), optimizer.param_groups[0]
    norm: torch.Tensor = torch.linalg.vector_norm(gradients)
    if settings.max_grad_norm is not None:
        gradients.mul_((settings.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
    first, second = ([moment] for moment in vectors.moments)
    adamw(
        [vectors.values], [gradients], first, second, [], [vectors.steps[0]], fused=True,
        capturable=group["capturable"], found_inf=(~norm.isfinite()).float(), amsgrad=False, beta1=group["betas"][0],
        beta2=group["betas"][1], lr=rate, weight_decay=settings.weight_decay, eps=group["eps"], maximize=False,
    )  # fmt: skip
    vectors.steps.copy_(vectors.steps[0].clone())
    return norm


def _moments(vectors: Vectors) -> zip[tuple[str, torch.Tensor]]:
    return zip(MOMENTS, vectors.moments, strict=True)


def _trained(optimizer: torch.optim.AdamW) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _parts(vector: torch.Tensor, parameters: list[nn.Parameter]) -> list[torch.Tensor]:
    parts = torch.split(vector, [one.numel() for one in parameters])
    return [part.view_as(one) for part, one in zip(parts, parameters, strict=True)]
