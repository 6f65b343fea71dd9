"""How autograd's passes run a decoder layer: compiled or not, and with its activations kept or formed again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from residency.engine.lora import Routing
from residency.engine.offload import HostMemory


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    return [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]


def arrange(
    model: PreTrainedModel,
    routing: Routing,
    *,
    again: int = 0,
    host: HostMemory | None = None,
    forward: Callable[..., Any] | None = None,
) -> None:
    """The first `again` decoder layers keep their input alone, in `host` where it is given; all others keep what they
    did. `forward(layer, ...)` runs a layer in the place of its own. May be called again."""
    for number, layer in enumerate(decoder_layers(model)):
        layer.__dict__.pop("forward", None)
        if forward is not None:
            layer.forward = partial(forward, layer)
        if number < again:
            layer.forward = partial(_again, layer.forward, routing, host)


def _again(forward: Callable[..., Any], routing: Routing, host: HostMemory | None, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    segments = routing.segments

    def run(*args: Any, **kwargs: Any) -> Any:
        routing.segments = segments  # a GPU's backward pass has a thread of its own
        return forward(*args, **kwargs)

    with saved_tensors_hooks(host.put, host.take) if host else nullcontext():
        return checkpoint(run, *args, use_reentrant=False, **kwargs)
