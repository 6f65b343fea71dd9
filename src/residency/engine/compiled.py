"""Decoder layers compiled by torch, for the passes that autograd runs; the fused ones need no compiler.

Each class of layers is compiled once for each length of a pass, and passes are filled up so that few lengths come up.
Attention stays outside, because where documents lie changes from pass to pass. The first pass of each length is
computed both ways, which leaves no trace; where loss or gradients differ, training goes on uncompiled.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn
from transformers import AttentionInterface

from residency.engine import attention
from residency.engine.memory import is_out_of_memory
from residency.models.starter import cache_folder

CACHE = "TORCHINDUCTOR_CACHE_DIR"
MOST_LENGTHS = 8
"""Passes of further lengths run uncompiled: each length costs seconds to minutes to compile."""
VARIANTS = 8
"""Code that one length may need: layers with and without a sliding window, and what stands around the attention."""
BOUNDS = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (1e-2, 0.1)}
"""The largest relative difference of the loss, and of each gradient."""
SMALL = 1e-3
"""A gradient is compared with this share of the largest one at least."""
START = 1e-3
"""Deviation of what starts as zeros, while it is compared: LoRA's A has no gradient while B is zero."""
_Measured: TypeAlias = tuple[float, list[torch.Tensor | None]]


@dataclass(frozen=True, slots=True)
class Compilation:
    """What became of one length."""

    tokens: int
    seconds: float
    """Of compiling, and of both passes that were compared."""
    loss_error: float | None
    """Relative, against the same pass uncompiled; None where nothing came to be compared."""
    gradient_error: float | None
    """The largest of any trained tensor, relative."""
    problem: str | None
    """Why compiled layers are not used from now on."""


class CompiledLayers:
    """`forward` runs a layer: compiled where `ready` was last told of a pass that it admitted."""

    def __init__(self, layers: Sequence[nn.Module], dtype: torch.dtype, said: Callable[[Compilation], None]) -> None:
        options: dict[str, Any] = {"fallback_random": True}  # dropout draws as it would uncompiled
        with _without_warnings():
            _keep_code()
            outside = torch.compiler.disable(attention.document_attention)  # type: ignore[no-untyped-call]
            AttentionInterface.register(attention.NAME, outside)
            self._compiled = {
                kind: torch.compile(kind.forward, dynamic=False, options=options)
                for kind in {type(one) for one in layers}
            }
        self.bounds = BOUNDS[dtype]
        self.said = said
        self.dropped = False
        self.seconds = 0.0
        """Of all compilations."""
        self._admitted: set[Hashable] = set()
        self._on = False

    def forward(self, layer: nn.Module, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """A first layer whose input has no gradient runs uncompiled: it would need code of its own."""
        kind = type(layer)
        on = self._on and torch.is_grad_enabled() and hidden.requires_grad
        return (self._compiled[kind] if on else kind.forward)(layer, hidden, *args, **kwargs)

    def takes(self, adapter: str | None, tokens: int) -> bool:
        """Whether passes of so many tokens run compiled, this time or from the next one on."""
        room = len(self._admitted) < MOST_LENGTHS
        return not self.dropped and (room or (adapter, tokens) in self._admitted)

    def ready(
        self, adapter: str | None, tokens: int, loss: Callable[[], torch.Tensor], trained: Sequence[nn.Parameter]
    ) -> None:
        """To be called before each pass with gradients; `loss` forms the pass's loss."""
        key = (adapter, tokens)
        if self.takes(adapter, tokens) and key not in self._admitted:
            found = self._compile(tokens, loss, trained)
            self.seconds += found.seconds
            self.dropped = found.problem is not None
            self._admitted.add(key)
            self.said(found)
        self._on = not self.dropped and key in self._admitted

    def off(self) -> None:
        """The next passes run uncompiled."""
        self._on = False

    def _compile(
        self, tokens: int, loss: Callable[[], torch.Tensor], trained: Sequence[nn.Parameter]
    ) -> Compilation:  # fmt: skip
        began = time.perf_counter()
        loss_error, gradient_error, problem = None, None, None
        try:
            limit = torch._dynamo.config.patch(recompile_limit=MOST_LENGTHS * VARIANTS)
            with _left_as_found(trained), _without_warnings(), limit:
                self._on = False
                expected = _measured(loss, trained)
                self._on = True
                loss_error, gradient_error = _difference(_measured(loss, trained), expected)
            if not (loss_error <= self.bounds[0] and gradient_error <= self.bounds[1]):
                problem = f"the loss differs by {loss_error:.1e} of itself, a gradient by {gradient_error:.1e}"
        except Exception as error:  # whatever a compiler stumbles over: the plain layers need none
            if is_out_of_memory(error):
                raise
            problem = f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
        finally:
            self._on = False
        return Compilation(tokens, time.perf_counter() - began, loss_error, gradient_error, problem)


def _keep_code() -> None:
    """In this user's cache, from run to run, unless another folder is named; torch names one that does not last."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir  # loads the compiler

    if os.environ.get(CACHE, default_cache_dir()) == default_cache_dir():
        os.environ[CACHE] = str(cache_folder() / "compiled")


@contextmanager
def _without_warnings() -> Iterator[None]:
    """The compiler warns of its own parts; what it makes is compared."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _left_as_found(trained: Sequence[nn.Parameter]) -> Iterator[None]:
    """Meanwhile nothing trained is zero; afterwards it is as it was, and so are the generators of random numbers."""
    zeros = [parameter for parameter in trained if not parameter.any()]
    devices = {parameter.device for parameter in trained if parameter.is_cuda}
    with torch.random.fork_rng(list(devices)):
        try:
            with torch.no_grad():
                for parameter in zeros:
                    parameter.normal_(std=START)
            yield
        finally:
            with torch.no_grad():
                for parameter in zeros:
                    parameter.zero_()


def _measured(loss: Callable[[], torch.Tensor], trained: Sequence[nn.Parameter]) -> _Measured:
    """The loss and its gradients, held in the CPU's memory, so that the device has room for one set."""
    torch.manual_seed(0)
    value = loss()
    gradients = torch.autograd.grad(value, list(trained), allow_unused=True)
    return float(value.detach()), [None if one is None else one.cpu() for one in gradients]


def _difference(found: _Measured, expected: _Measured) -> tuple[float, float]:
    """Relative, of the loss and of the gradient that differs most."""
    pairs = [(one, other) for one, other in zip(found[1], expected[1], strict=True) if other is not None]
    least = SMALL * max((float(other.norm()) for _, other in pairs), default=0.0)
    errors = [
        float("inf") if one is None else float((one - other).norm()) / max(float(other.norm()), least, 1e-30)
        for one, other in pairs
    ]
    return abs(found[0] - expected[0]) / max(abs(expected[0]), 1e-30), max(errors, default=0.0)
