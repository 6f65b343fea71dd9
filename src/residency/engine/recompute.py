"""Layers whose activations are formed again in the backward pass instead of kept, where autograd runs the passes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


def form_again(model: PreTrainedModel, layers: int) -> None:
    """The first `layers` decoder layers keep their input alone; all others keep what they did. May be called again."""
    for number, layer in enumerate(m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)):
        layer.__dict__.pop("forward", None)
        if number < layers:
            layer.forward = partial(_again, layer.forward)


def _again(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
