"""The engine's verbs over fused passes: nothing in a step waits for the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from peft.tuners.lora.layer import LoraLayer

from residency.data.messages import Rendered
from residency.engine.divergence import Expected, Remembered, join
from residency.engine.fast_batch import FilledPass, passes
from residency.engine.fused import FusedDecoder, Pass
from residency.engine.graphs import Graphs
from residency.engine.offload import HostMemory
from residency.engine.optim import StepSettings
from residency.engine.speed import Speed
from residency.engine.vectors import Vectors, as_vectors, step, take_over


class FastPath:
    """`model` is the causal language model inside `peft_model`; the adapters are plain LoRA on its linears."""

    def __init__(self, model: Any, speed: Speed) -> None:
        layers = range(model.config.num_hidden_layers)
        again = frozenset(layers[: speed.layers_formed_again])
        host = HostMemory(model.device) if speed.offload else None
        fp8 = frozenset(layers[speed.first_last_layers_bf16 : len(layers) - speed.first_last_layers_bf16])
        self.decoder = FusedDecoder(
            model, fp8=fp8 if speed.fp8 else frozenset(), kernels=bool(speed.kernels), again=again, host=host
        )
        self.device: torch.device = model.device
        self.graphs = Graphs() if speed.graphs else None
        self._trained: dict[str, tuple[torch.optim.AdamW, Vectors]] = {}
        self._wanted: tuple[Any, Mapping[str, torch.optim.AdamW]] | None = None

    @property
    def _names(self) -> list[str]:
        return list(self._trained)

    def use(self, peft_model: Any, optimizers: Mapping[str, torch.optim.AdamW]) -> None:
        """Trains the adapters of these names from the next pass on; those trained before keep what they gathered for
        their next step. Nothing is built before that pass, so that adapters may come and go in a row."""
        self._wanted = (peft_model, dict(optimizers))

    def _settle(self) -> None:
        if self._wanted is None:
            return
        (peft_model, optimizers), self._wanted = self._wanted, None
        gathered, before = self.decoder.adapters.gathered(), self._trained
        self._trained = {
            name: before[name] if name in before and before[name][0] is one else (one, as_vectors(one))
            for name, one in optimizers.items()
        }
        layers = {one.base_layer: one for one in peft_model.modules() if isinstance(one, LoraLayer)}
        self.decoder.use(self._names, layers)
        self.decoder.adapters.gather({name: parts for name, parts in gathered.items() if name in self._names})
        if self.graphs:
            self.graphs.clear()

    def restored(self, names: Sequence[str]) -> None:
        """To be called when parameters or optimizers were changed from outside."""
        self._settle()
        for name in names:
            take_over(*self._trained[name])
        self.decoder.adapters.refresh(list(names))
        if self.graphs:
            self.graphs.clear()

    def weights(self, name: str) -> torch.Tensor:
        """All that is trained under that name, shape (weights,), as it is now and will be."""
        self._settle()
        return self._trained[name][1].values

    def set_weights(self, name: str, weights: torch.Tensor) -> None:
        self.weights(name).copy_(weights)
        self.decoder.adapters.refresh([name])

    def snapshot(self, name: str) -> Vectors:
        self._settle()
        return self._trained[name][1].copy()

    def put_back(self, name: str, copy: Vectors) -> None:
        """In the same places, so that what was recorded still holds."""
        self._trained[name][1].put_back(copy)
        self.decoder.adapters.refresh([name])

    def clear(self) -> None:
        """Forgets all gradients, and the memory that recorded passes hold."""
        for name in self._names:
            self.decoder.adapters.clear(name)
        if self.graphs:
            self.graphs.clear()

    def leave(self, names: Sequence[str]) -> None:
        """Hands what these adapters gathered for their next step over to autograd's places; the others have none."""
        for name in self._names:
            self.decoder.adapters.leave(name, keep=name in names)

    def forward_backward(
        self, batches: Mapping[str, Sequence[Rendered]], capacity: int, *, packing: bool
    ) -> dict[str, torch.Tensor]:
        """Adds gradients. For each adapter: the sum of its losses, how many first choices were right, and the sum of
        each row's losses, shape (2 + rows,)."""
        self._settle()
        totals = {name: torch.zeros(2 + len(rows), device=self.device) for name, rows in batches.items()}
        numbered = {self._names.index(name): rows for name, rows in batches.items()}
        for one in passes(numbered, capacity, self.device, packing=packing, coarse=self.graphs is not None):
            names = self._names[one.tensors.slots.first :]
            for name, targets, owners in zip(names, self._run(one), one.owners_there, strict=False):
                totals[name][:2] += targets.sum(dim=0)
                # Where targets are filled up, the owner is -1 and the loss 0, which changes nothing at place 1.
                totals[name].index_add_(0, owners + 2, targets[:, 0])
        return totals

    def pull(
        self, name: str, rows: Sequence[Remembered], factor: float, capacity: int, *, packing: bool
    ) -> torch.Tensor:
        """Adds the gradient of `factor` times the summed divergence. Returns that sum, shape ()."""
        self._settle()
        total = torch.zeros((), device=self.device)
        numbered = {self._names.index(name): [one.row for one in rows]}
        for one in passes(numbered, capacity, self.device, packing=packing, coarse=self.graphs is not None):
            [owners] = one.owners
            here = [rows[row].base for row in dict.fromkeys(owners[owners >= 0].tolist())]
            expected = Expected.of(join(here), factor, len(owners))
            if self.device.type == "cuda":
                expected = Expected(*(part.pin_memory().to(self.device, non_blocking=True) for part in expected))
            total += self._run(replace(one, tensors=replace(one.tensors, expected=expected)))[0, :, 0].sum()
        return total

    def logprobs(
        self, adapters: Sequence[str | None], rows: Sequence[Rendered], capacity: int, *, packing: bool
    ) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
        """For each adapter (None alone: the base model) each row's losses and whether each was the first choice."""
        self._settle()
        numbers = [None if name is None else self._names.index(name) for name in adapters]
        found = {number: [(torch.empty(0), torch.empty(0, dtype=torch.bool))] * len(rows) for number in numbers}
        for one in passes(dict.fromkeys(numbers, rows), capacity, self.device, packing=packing):
            slots, scored = one.tensors.slots, [t.cpu() for t in self.decoder.score(one.tensors)]
            there = range(slots.first, slots.first + slots.adapters) if slots.adapters else [None]
            losses, correct = (t.view(len(there), -1) for t in scored)
            for place, number in enumerate(there):
                owners = torch.from_numpy(one.owners[place])
                for row in np.unique(one.owners[place][one.owners[place] >= 0]):
                    found[number][row] = (losses[place][owners == row], correct[place][owners == row])
        return [found[number] for number in numbers]

    def _run(self, one: FilledPass) -> torch.Tensor:
        """Each target's loss, and 1 where it was the first choice, shape (adapters of the pass, targets, 2)."""
        tensors = one.tensors
        inputs = (
            tensors.input_ids, tensors.position_ids, tensors.documents.cu_seqlens, tensors.predictors, tensors.targets,
            *(tensors.expected or ()),
        )  # fmt: skip

        def work(inputs: Sequence[torch.Tensor]) -> torch.Tensor:
            ids, positions, cu_seqlens, predictors, targets, *rest = inputs
            documents, expected = replace(tensors.documents, cu_seqlens=cu_seqlens), Expected(*rest) if rest else None
            results = self.decoder.forward_backward(
                Pass(ids, positions, documents, predictors, targets, tensors.slots, expected)
            )
            return torch.stack([part.view(tensors.slots.adapters, -1).float() for part in results], dim=2)

        return self.graphs.run((len(inputs), *one.key), inputs, work) if self.graphs else work(inputs)

    def step(self, settings: Mapping[str, StepSettings], tokens: Mapping[str, int]) -> torch.Tensor:
        """One AdamW step for each adapter named. Returns the norms of their gradients before clipping, in order.

        An adapter whose norm is not finite keeps its weights, and so does one without tokens since its last step.
        """
        self._settle()
        names = list(settings)
        rates = torch.tensor(
            [[settings[name].learning_rate, 1.0 / max(1, tokens[name])] for name in names], dtype=torch.float32
        )
        if self.device.type == "cuda":
            rates = rates.pin_memory().to(self.device, non_blocking=True)
        key = ("step", *((name, settings[name].weight_decay, settings[name].max_grad_norm, tokens[name] > 0)
                         for name in names))  # fmt: skip

        def work(inputs: Sequence[torch.Tensor]) -> torch.Tensor:
            norms = [
                self._step_one(name, settings[name], inputs[0][place]) if tokens[name] else inputs[0].new_zeros(())
                for place, name in enumerate(names)
            ]
            return torch.stack(norms)

        return self.graphs.run(key, (rates,), work) if self.graphs else work((rates,))

    def _step_one(self, name: str, settings: StepSettings, rates: torch.Tensor) -> torch.Tensor:
        self.decoder.adapters.collect(name)
        norm = step(*self._trained[name], settings, *rates)
        self.decoder.adapters.refresh([name])
        return norm
