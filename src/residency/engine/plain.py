"""The engine's verbs over transformers' own passes under autograd: what every model and adapter can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from residency.data.messages import Rendered
from residency.engine import attention, lanes, lora, sampling
from residency.engine.batch import Pack, Segment, collate, filled, needed_length, next_length, plan_packs, split_evenly
from residency.engine.compiled import Compilation, CompiledLayers
from residency.engine.divergence import Distributions, Remembered, divergence, join, logprobs_of, top_k
from residency.engine.loss import linear_cross_entropy, logits_cross_entropy
from residency.engine.offload import HostMemory
from residency.engine.recompute import arrange, decoder_layers
from residency.engine.sampling import SamplingSettings, held_once
from residency.engine.speed import Speed

R = TypeVar("R")
_Gradients: TypeAlias = tuple[torch.Tensor | None, ...]


class PlainPath:
    """`base` is the causal language model; `model` the same, or PEFT's model around it."""

    def __init__(
        self,
        base: PreTrainedModel,
        *,
        share_prefix: bool,
        autocast: torch.dtype | None,
        on_compiled: Callable[[Compilation], None],
    ) -> None:
        self.base: Any = base
        self.model: Any = base
        self.device: torch.device = base.device
        self.share_prefix = share_prefix
        self.autocast = autocast
        self.on_compiled = on_compiled
        self.routing = lora.Routing()
        self.shared = False
        """Whether several adapters share a pass."""
        self.compiled: CompiledLayers | None = None
        """For passes with gradients, where it is set."""
        self._trained: list[nn.Parameter] = []
        self._head = _plain_head(base)

    def adapted(self, model: PeftModel) -> None:
        """To be called when an adapter was added to `model`."""
        self.model, self.shared = model, lora.is_plain(model)
        if self.shared:
            lora.use_shared_forward(model, self.routing)
        else:
            lora.use_own_forward(model)
        if self.base.get_output_embeddings() is not self._head:  # adapted itself
            self._head = None

    def arrange(self, speed: Speed, *, fused: bool) -> None:
        """How the layers run: compiled, formed again in the backward pass. Where passes are fused, these only score."""
        if not speed.compile:
            self.compiled = None
        elif self.compiled is None:
            self.compiled = CompiledLayers(
                decoder_layers(self.base), self.autocast or self.base.dtype, self.on_compiled
            )
        arrange(
            self.base,
            self.routing,
            again=0 if fused else speed.layers_formed_again,
            host=HostMemory(self.device) if speed.offload and not fused else None,
            forward=self.compiled.forward if self.compiled else None,
        )

    def train(self, parameters: Sequence[nn.Parameter]) -> None:
        """All that is trained from now on."""
        self._trained = list(parameters)
        for parameter in self._trained:
            parameter.requires_grad_(True)

    def gradients(self, group: Mapping[str, Sequence[Rendered]], capacity: int) -> dict[str, torch.Tensor]:
        """Adds gradients. For each adapter: the sum of its losses, how many first choices were right, and the sum of
        each row's losses, shape (2 + rows,)."""
        sums = {name: torch.zeros(2 + len(rows), dtype=torch.float64, device=self.device)
                for name, rows in group.items()}  # fmt: skip

        def added(pack: Pack) -> tuple[_Gradients, torch.Tensor, torch.Tensor]:
            self._compile(pack)
            loss, losses, correct = self._losses(pack)
            return self._backward(loss), losses, correct

        with self._active(*group):
            for pack, (gradients, losses, correct) in self._each(added, group, capacity):
                self._add(gradients)
                owners = torch.tensor(pack.rows, device=self.device)[pack.row_of_target]
                for segment in pack.segments:
                    mine = (pack.predictors >= segment.start) & (pack.predictors < segment.end)
                    sums[str(segment.adapter)][:2] += torch.stack([losses[mine].sum(), correct[mine].sum()])
                    sums[str(segment.adapter)][2:].index_add_(0, owners[mine], losses[mine].double())
        return sums

    def pull(self, name: str, rows: Sequence[Remembered], factor: float, capacity: int) -> torch.Tensor:
        """Adds the gradient of `factor` times the summed divergence. Returns that sum, shape ()."""
        total = torch.zeros((), device=self.device)

        def pulled(pack: Pack) -> tuple[_Gradients, torch.Tensor]:
            self._compile(pack)
            loss, each = divergence(*self._outputs(pack), join([rows[i].base for i in pack.rows]))
            return self._backward(loss * factor), each.sum()

        with self._active(name):
            for _, (gradients, part) in self._each(pulled, {name: [one.row for one in rows]}, capacity):
                self._add(gradients)
                total += part
        return total

    @torch.no_grad()
    def logprobs(
        self, adapter: str | None, rows: Sequence[Rendered], capacity: int
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each row's losses and whether each was the first choice."""
        found = [(torch.empty(0), torch.empty(0, dtype=torch.bool))] * len(rows)
        with self._active(adapter):
            for pack, (_, *both) in self._each(self._losses, {adapter: rows}, capacity):
                losses, correct = (part.cpu() for part in both)
                for row, mine in _targets_of_rows(pack):
                    found[row] = (losses[mine], correct[mine])
        return found

    @torch.no_grad()
    def choices(
        self, adapter: str | None, rows: Sequence[Rendered], tokens: Sequence[NDArray[np.int64]], capacity: int
    ) -> list[torch.Tensor]:
        found: dict[int, torch.Tensor] = {}

        def chosen(pack: Pack) -> torch.Tensor:
            return logprobs_of(*self._outputs(pack), np.concatenate([tokens[i] for i in pack.rows]))

        with self._active(adapter):
            for pack, each in self._each(chosen, {adapter: rows}, capacity):
                found |= {row: each[mine] for row, mine in _targets_of_rows(pack)}
        return [found[row] for row in range(len(rows))]

    @torch.no_grad()
    def distributions(self, adapter: str | None, rows: Sequence[Rendered], capacity: int) -> list[Distributions]:
        found: dict[int, Distributions] = {}
        with self._active(adapter):
            for pack, everywhere in self._each(lambda pack: top_k(*self._outputs(pack)), {adapter: rows}, capacity):
                found |= {row: everywhere.part(mine.numpy()) for row, mine in _targets_of_rows(pack)}
        return [found[row] for row in range(len(rows))]

    @torch.no_grad()
    def divergences(self, adapter: str | None, rows: Sequence[Remembered], capacity: int) -> list[torch.Tensor]:
        found: dict[int, torch.Tensor] = {}

        def diverged(pack: Pack) -> torch.Tensor:
            return divergence(*self._outputs(pack), join([rows[i].base for i in pack.rows]))[1].cpu()

        with self._active(adapter):
            for pack, each in self._each(diverged, {adapter: [one.row for one in rows]}, capacity):
                found |= {row: each[mine] for row, mine in _targets_of_rows(pack)}
        return [found[row] for row in range(len(rows))]

    def stream(
        self, adapter: str | None, prompts: Sequence[Sequence[int]], settings: SamplingSettings
    ) -> Iterator[tuple[int, int]]:
        """`(index of the prompt, token id)` as they come, some prompts beside the others."""
        count = self._lanes(len(prompts))
        own = replace(settings, batch_size=-(-settings.batch_size // count))
        parts = split_evenly([len(prompt) for prompt in prompts], count)
        once = held_once(self.base, prompts, settings)

        def beside(part: list[int]) -> Iterator[tuple[int, int]]:
            with self._autocast():
                self.routing.segments = (Segment(adapter, 0, 0),)
                yield from sampling.stream(self.model, {i: prompts[i] for i in part}, own, once=once)

        attention.install(self.base, packed=once)
        with self._active(adapter):
            yield from lanes.streams(beside, parts)

    def _lanes(self, items: int) -> int:
        """Passes beside one another: on a CPU, unless all weights are trained, whose gradients would be held for each,
        or layers are compiled, or keep PEFT's own forward, which has one state and draws its dropout in one order."""
        alone = (self._trained and not self.shared) or self.compiled is not None
        return 1 if alone or self.device.type != "cpu" else lanes.lanes(items)

    def _each(
        self, work: Callable[[Pack], R], group: Mapping[Any, Sequence[Rendered]], capacity: int
    ) -> Iterator[tuple[Pack, R]]:
        """`work` on each pass over these rows, in order. `capacity` is in tokens, of all passes beside one another; 0
        for a pass of its own for every row."""
        members = [(name, index, row) for name, rows in group.items() for index, row in enumerate(rows)]
        lengths = [needed_length(row) for _, _, row in members]
        count = self._lanes(len(members))
        if capacity:
            count = max(1, min(count, capacity // max([1, *lengths])))
        whole = 0 < sum(lengths) <= capacity and count > 1
        plans = split_evenly(lengths, count) if whole else plan_packs(lengths, capacity // count)
        attention.install(self.base, packed=True)
        for start in range(0, len(plans), count):
            packs = [self._pack([members[i] for i in plan]) for plan in plans[start : start + count]]
            yield from zip(packs, lanes.beside(work, packs, count), strict=True)

    def _pack(self, members: Sequence[tuple[str | None, int, Rendered]]) -> Pack:
        groups: dict[str | None, list[tuple[int, Rendered]]] = {}
        for name, index, row in members:
            groups.setdefault(name, []).append((index, row))
        pack = collate(groups, self.device, share_prefix=self.share_prefix)
        if self.compiled is not None and torch.is_grad_enabled() and len(groups) == 1:
            length = next_length(pack.input_ids.shape[1])
            return filled(pack, length) if self.compiled.takes(members[0][0], length) else pack
        return pack

    def _compile(self, pack: Pack) -> None:
        """Before a pass with gradients. One of several adapters runs uncompiled: where they meet changes."""
        if self.compiled is None:
            return
        if len(pack.segments) > 1:
            self.compiled.off()
            return
        [segment] = pack.segments
        self.routing.alone = segment.adapter
        self.compiled.ready(segment.adapter, segment.end, lambda: self._losses(pack)[0], self._trained)

    def _backward(self, loss: torch.Tensor) -> _Gradients:
        """The gradients; none where they are added at once, because no pass stands beside this one."""
        if not lanes.is_beside():
            loss.backward()  # type: ignore[no-untyped-call]
            return ()
        return torch.autograd.grad(loss, self._trained, allow_unused=True)

    def _add(self, gradients: _Gradients) -> None:
        for parameter, gradient in zip(self._trained, gradients, strict=False):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)

    def _losses(self, pack: Pack) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        outputs, head = self._outputs(pack)
        with self._autocast():
            if head is None:
                return logits_cross_entropy(outputs, pack.targets)
            return linear_cross_entropy(outputs, head, pack.targets)

    def _outputs(self, pack: Pack) -> tuple[torch.Tensor, nn.Linear | None]:
        """At the predictors of a pass, the hidden states and the head; or the logits, where there is no plain head."""
        self.routing.segments = pack.segments
        passed = {"input_ids": pack.input_ids, "position_ids": pack.position_ids, "packed": pack}
        with self._autocast():
            if self._head is None:
                return self.base(**passed, use_cache=False, logits_to_keep=pack.predictors).logits[0], None
            hidden = self.base.base_model(**passed, use_cache=False).last_hidden_state[0]
            return hidden[pack.predictors], self._head

    @contextmanager
    def _active(self, *names: str | None) -> Iterator[None]:
        """For layers that keep PEFT's own forward: one adapter at a time, or none."""
        if not isinstance(self.model, PeftModel) or self.shared:
            yield
            return
        [name] = names
        if name is None:
            with self.model.disable_adapter():
                yield
            return
        self.model.set_adapter(name)
        for parameter in self._trained:
            parameter.requires_grad_(True)
        self.model.train(torch.is_grad_enabled())  # dropout is for training alone
        try:
            yield
        finally:
            self.model.eval()

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext()


def _targets_of_rows(pack: Pack) -> Iterator[tuple[int, torch.Tensor]]:
    """The caller's index of each row, and which of the pass's targets are its own."""
    owners = pack.row_of_target.cpu()
    for position, row in enumerate(pack.rows):
        yield row, owners == position


@torch.no_grad()
def _plain_head(model: PreTrainedModel) -> nn.Linear | None:
    """The head, if logits are nothing but its product with the last hidden state: tried out on a few tokens."""
    head: Any = model.get_output_embeddings()
    if type(head) is not nn.Linear or getattr(head, "bias", None) is not None:
        return None
    attention.install(model, packed=False)
    ids = torch.arange(4, device=model.device)[None]
    logits = model(input_ids=ids, use_cache=False).logits
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return head if np.allclose(logits.float().cpu(), head(hidden).float().cpu(), rtol=1e-3, atol=1e-3) else None
