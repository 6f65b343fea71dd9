"""Plain LoRA inside PEFT's layers, for several adapters in one pass.

PEFT builds the layers and owns their parameters; a plain LoRA layer's forward is replaced by `base(x)` plus an update
added in place: no copy of x, no second output, and each adapter sees only its own segment of the tokens. Layers with
dropout, DoRA or any other variant keep PEFT's own forward, one adapter at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from copy import copy, deepcopy
from functools import cache
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from residency.engine.batch import Segment


class Routing:
    """Which adapter each token of this thread's present pass belongs to; every replaced layer reads it."""

    def __init__(self) -> None:
        self._here = threading.local()
        self.alone: str | None = None
        """The adapter of all tokens, for compiled layers: they run in one pass at a time."""

    @property
    def segments(self) -> tuple[Segment, ...]:
        return getattr(self._here, "segments", ())

    @segments.setter
    def segments(self, segments: tuple[Segment, ...]) -> None:
        self._here.segments = segments

    def parts(self, tokens: int) -> tuple[Segment, ...]:
        """The segments, where the one that is all of a pass (generation) gets the pass's own length."""
        if len(self.segments) == 1:
            return (Segment(self.segments[0].adapter, 0, tokens),)
        return self.segments


class _AddUpdate(torch.autograd.Function):
    """`output[start:end] += scale * x[start:end] @ A.T @ B.T` for every part, in place; saves x and x @ A.T."""

    @staticmethod
    def forward(
        ctx: Any, output: torch.Tensor, x: torch.Tensor, parts: tuple[tuple[int, int, float], ...], *ab: torch.Tensor
    ) -> torch.Tensor:
        x2, y2 = x.reshape(-1, x.shape[-1]), output.view(-1, output.shape[-1])
        inner = []
        for (start, end, scale), a, b in zip(parts, ab[::2], ab[1::2], strict=True):
            inner.append(x2[start:end] @ a.to(x.dtype).T)
            y2[start:end].addmm_(inner[-1], b.to(x.dtype).T, alpha=scale)
        ctx.mark_dirty(output)
        ctx.parts = parts
        ctx.save_for_backward(x, *ab, *inner)
        return output

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        x, *rest = ctx.saved_tensors
        count = len(ctx.parts)
        ab, inner = rest[: 2 * count], rest[2 * count :]
        x2, g2 = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        grad_x = torch.zeros_like(x2) if ctx.needs_input_grad[1] else None
        grads: list[torch.Tensor] = []
        for (start, end, scale), a, b, xa in zip(ctx.parts, ab[::2], ab[1::2], inner, strict=True):
            g = g2[start:end]
            grad_inner = (g @ b.to(g.dtype)) * scale
            grads += [(grad_inner.T @ x2[start:end]).to(a.dtype), ((g.T @ xa) * scale).to(b.dtype)]
            if grad_x is not None:
                torch.mm(grad_inner, a.to(g.dtype), out=grad_x[start:end])
        return grad, None if grad_x is None else grad_x.view_as(x), None, *grads


class _Shared:
    """Goes before PEFT's own class of a layer. A class, because what each instance holds would be compiled anew."""

    routing: Routing

    def forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        output: torch.Tensor = self.base_layer(x, *args, **kwargs)
        if torch.compiler.is_compiling():  # which fuses what is added better than what is mutated
            return _plus_update(self, self.routing.alone, x, output)
        used = [s for s in self.routing.parts(x.numel() // x.shape[-1]) if s.adapter in self.lora_A]
        if not used:
            return output
        parts = tuple((s.start, s.end, self.scaling[s.adapter]) for s in used)
        weights = [w for s in used for w in (self.lora_A[s.adapter].weight, self.lora_B[s.adapter].weight)]
        if not torch.is_grad_enabled():
            return _AddUpdate.forward(_NoContext(), output, x, parts, *weights)
        return _AddUpdate.apply(output, x, parts, *weights)  # type: ignore[no-any-return,no-untyped-call]


@cache
def _sharing(kind: type) -> type:
    return type(kind.__name__, (_Shared, kind), {"__module__": kind.__module__})


def _plus_update(layer: Any, adapter: str | None, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    if adapter not in layer.lora_A:
        return output
    a, b = (part[adapter].weight.to(x.dtype) for part in (layer.lora_A, layer.lora_B))
    return output.add(x @ a.T @ b.T, alpha=layer.scaling[adapter])


class _NoContext:
    """Stands in for autograd's context where nothing is saved."""

    def mark_dirty(self, *_: Any) -> None: ...
    def save_for_backward(self, *_: Any) -> None: ...


def add_twins(model: PeftModel, of: str, names: Sequence[str]) -> None:
    """Adds adapters that begin as the plain one named is now: copies of what its layers keep under its name.

    To add one PEFT walks all modules several times, to find its layers and to settle what is frozen, and draws what is
    here known.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer) and of in layer.lora_A]
    for name in names:
        model.peft_config[name] = deepcopy(model.peft_config[of])
        for layer in layers:
            for kept in (*vars(layer).values(), *layer._modules.values()):
                if isinstance(kept, dict | nn.ModuleDict) and of in kept:
                    kept[name] = _twin(kept[of])


def _twin(kept: Any) -> Any:
    """`deepcopy` takes a millisecond for a linear."""
    if not isinstance(kept, nn.Linear | nn.Identity):
        return deepcopy(kept)
    twin = copy(kept)
    twin._parameters = {
        key: None if one is None else nn.Parameter(one.detach().clone(), one.requires_grad)
        for key, one in kept._parameters.items()
    }
    return twin


def is_plain(model: nn.Module) -> bool:
    """Whether everything PEFT added is plain LoRA on linear layers, so that adapters may share a pass."""
    layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
    return bool(layers) and all(_is_plain_layer(layer) for layer in layers)


def only_in_layers(model: nn.Module) -> bool:
    """Whether nothing outside the decoder's layers (embedding, head) has an adapter or is trained."""
    adapted = [name for name, m in model.named_modules() if isinstance(m, LoraLayer)]
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    return all(".layers." in name for name in adapted) and all(".lora_" in name for name in trained)


def _is_plain_layer(layer: BaseTunerLayer) -> bool:
    linear = (
        isinstance(layer, LoraLayer)
        and hasattr(layer, "lora_A")
        and layer.base_layer.__class__.__name__
        in (
            "Linear",
            "Linear4bit",
        )
    )
    return (
        linear
        and not layer.lora_variant
        and not any(layer.lora_bias.values())
        and not any(isinstance(d, nn.Dropout) for d in layer.lora_dropout.values())
    )


def use_shared_forward(model: nn.Module, routing: Routing) -> None:
    """Replaces the forward of every LoRA layer of a model for which `is_plain` holds. May be called again."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.routing = routing
            if not isinstance(layer, _Shared):
                layer.__class__ = _sharing(type(layer))  # type: ignore[arg-type]  # a class is hashable


def use_own_forward(model: nn.Module) -> None:
    """Gives every layer PEFT's forward back."""
    for layer in model.modules():
        if isinstance(layer, _Shared):
            layer.__class__ = type(layer).__bases__[1]
