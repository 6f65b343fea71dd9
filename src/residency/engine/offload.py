"""Layers' inputs in the host's memory between the forward and the backward pass, where the device has no room."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch


@dataclass(slots=True, eq=False, weakref_slot=True)
class Held:
    """One tensor. `before` was put just before it, and will be asked for after it."""

    host: torch.Tensor
    before: weakref.ref[Held] | None
    there: torch.Tensor | None = None
    """On the device again, once `arrived`."""
    arrived: torch.cuda.Event | None = None


class HostMemory:
    """What is put last is taken first. Copies run beside the work; while one is used, the next is on its way back. On a
    CPU everything is in the host's memory already, and a copy stands for the journey."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._beside: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._last: weakref.ref[Held] | None = None

    def put(self, tensor: torch.Tensor) -> Held | torch.Tensor:
        tensor = tensor.detach()
        if tensor.device != self.device:  # torch's own bookkeeping: there is nothing to move
            return tensor
        if self._beside is None:
            host = tensor.clone()
        else:
            host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._beside.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self._beside):
                host.copy_(tensor, non_blocking=True)
            tensor.record_stream(self._beside)
        held = Held(host, self._last)
        self._last = weakref.ref(held)
        return held

    def take(self, held: Held | torch.Tensor) -> torch.Tensor:
        if isinstance(held, torch.Tensor):
            return held
        self._last = held.before
        there = self._fetched(held)
        if before := held.before and held.before():
            self._fetched(before)
        if held.arrived is not None:
            now = torch.cuda.current_stream(self.device)
            now.wait_event(held.arrived)
            there.record_stream(now)
        held.there = None
        return there

    def _fetched(self, held: Held) -> torch.Tensor:
        """On its way to the device at least."""
        if held.there is None:
            if self._beside is None:
                return held.host
            with torch.cuda.stream(self._beside):
                held.there = held.host.to(self.device, non_blocking=True)
                held.arrived = self._beside.record_event()
        return held.there
