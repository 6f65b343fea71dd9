"""Numbers a device is still working on, read when asked for: nothing waits for them before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


class Late:
    """A small tensor, on its way to the CPU."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._tensor = tensor.detach()
        if tensor.is_cuda:
            self._tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._tensor.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def read(self) -> torch.Tensor:
        """Waits for this number alone, not for what was asked of the device after it."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._tensor


class LateFloats(Mapping[str, float]):
    """One float for each name, from one tensor."""

    def __init__(self, names: Sequence[str], values: torch.Tensor) -> None:
        self._places = {name: place for place, name in enumerate(names)}
        self._values = Late(values)

    def __getitem__(self, name: str) -> float:
        return float(self._values.read()[self._places[name]])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True, slots=True)
class Loss:
    """What one adapter's rows came to. The device may still be working on it; whoever reads it waits."""

    sums: Late
    """Shape (2 + rows,): `total`, `correct`, and what each row has of the total."""
    tokens: int
    """Trained tokens."""

    @property
    def total(self) -> float:
        """Sum of the negative log-likelihoods (of a pull: of the divergences), in nats."""
        return float(self.sums.read()[0])

    @property
    def correct(self) -> int:
        """How many of the trained tokens were the model's first choice."""
        return int(self.sums.read()[1])

    @property
    def by_row(self) -> NDArray[np.float64]:
        """Each row's own sum, in nats, in the order they were given in."""
        return self.sums.read()[2:].double().numpy()

    @property
    def mean(self) -> float:
        return self.total / max(1, self.tokens)
