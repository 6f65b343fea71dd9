"""The engine's verbs over transformers' own passes under autograd: what every model and adapter can do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from residency.data.messages import Rendered
from residency.engine import attention, lora
from residency.engine.batch import Pack, Segment, collate, needed_length, plan_packs
from residency.engine.divergence import Distributions, Remembered, divergence, join, top_k
from residency.engine.loss import linear_cross_entropy, logits_cross_entropy


class PlainPath:
    """`base` is the causal language model; `model` the same, or PEFT's model around it."""

    def __init__(self, base: PreTrainedModel, *, share_prefix: bool, autocast: torch.dtype | None) -> None:
        self.base: Any = base
        self.model: Any = base
        self.device: torch.device = base.device
        self.share_prefix = share_prefix
        self.autocast = autocast
        self.routing = lora.Routing()
        self.shared = False
        """Whether several adapters share a pass."""
        self._trained: list[nn.Parameter] = []
        self._head = _plain_head(base)

    def adapted(self, model: PeftModel) -> None:
        """To be called when an adapter was added to `model`."""
        self.model, self.shared = model, lora.is_plain(model)
        if self.shared:
            lora.use_shared_forward(model, self.routing)
        else:
            lora.use_own_forward(model)
        self._head = _plain_head(self.base)

    def train(self, parameters: Sequence[nn.Parameter]) -> None:
        """All that is trained from now on."""
        self._trained = list(parameters)
        for parameter in self._trained:
            parameter.requires_grad_(True)

    def gradients(self, group: Mapping[str, Sequence[Rendered]], capacity: int) -> dict[str, torch.Tensor]:
        """Adds gradients. For each adapter: the sum of its losses and how many first choices were right, shape (2,)."""
        sums = {name: torch.zeros(2, dtype=torch.float64, device=self.device) for name in group}
        with self._active(*group):
            for pack in self._packs(group, capacity):
                loss, losses, correct = self._losses(pack)
                loss.backward()  # type: ignore[no-untyped-call]
                for segment in pack.segments:
                    mine = (pack.predictors >= segment.start) & (pack.predictors < segment.end)
                    sums[str(segment.adapter)] += torch.stack([losses[mine].sum(), correct[mine].sum()])
        return sums

    def pull(self, name: str, rows: Sequence[Remembered], factor: float, capacity: int) -> torch.Tensor:
        """Adds the gradient of `factor` times the summed divergence. Returns that sum, shape ()."""
        total = torch.zeros((), device=self.device)
        with self._active(name):
            for pack in self._packs({name: [one.row for one in rows]}, capacity):
                loss, each = divergence(*self._outputs(pack), join([rows[i].base for i in pack.rows]))
                (loss * factor).backward()  # type: ignore[no-untyped-call]
                total += each.sum()
        return total

    @torch.no_grad()
    def logprobs(
        self, adapter: str | None, rows: Sequence[Rendered], capacity: int
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each row's losses and whether each was the first choice."""
        found = [(torch.empty(0), torch.empty(0, dtype=torch.bool))] * len(rows)
        with self._active(adapter):
            for pack in self._packs({adapter: rows}, capacity):
                losses, correct = (part.cpu() for part in self._losses(pack)[1:])
                for row, mine in _targets_of_rows(pack):
                    found[row] = (losses[mine], correct[mine])
        return found

    @torch.no_grad()
    def distributions(self, adapter: str | None, rows: Sequence[Rendered], capacity: int) -> list[Distributions]:
        found: dict[int, Distributions] = {}
        with self._active(adapter):
            for pack in self._packs({adapter: rows}, capacity):
                everywhere = top_k(*self._outputs(pack))
                found |= {row: everywhere.part(mine.numpy()) for row, mine in _targets_of_rows(pack)}
        return [found[row] for row in range(len(rows))]

    @torch.no_grad()
    def divergences(self, adapter: str | None, rows: Sequence[Remembered], capacity: int) -> list[torch.Tensor]:
        found: dict[int, torch.Tensor] = {}
        with self._active(adapter):
            for pack in self._packs({adapter: [one.row for one in rows]}, capacity):
                each = divergence(*self._outputs(pack), join([rows[i].base for i in pack.rows]))[1].cpu()
                found |= {row: each[mine] for row, mine in _targets_of_rows(pack)}
        return [found[row] for row in range(len(rows))]

    @contextmanager
    def generating(self, adapter: str | None) -> Iterator[Any]:
        """The model, ready to generate with this adapter alone."""
        attention.install(self.base, packed=False)
        with self._active(adapter), self._autocast():
            self.routing.segments = (Segment(adapter, 0, 0),)
            yield self.model

    def _packs(self, group: Mapping[Any, Sequence[Rendered]], capacity: int) -> Iterator[Pack]:
        """`capacity` in tokens; 0 for a pass of its own for every row."""
        members = [(name, index, row) for name, rows in group.items() for index, row in enumerate(rows)]
        lengths = [needed_length(row) for _, _, row in members]
        for plan in plan_packs(lengths, capacity):
            groups: dict[str | None, list[tuple[int, Rendered]]] = {}
            for name, index, row in (members[i] for i in plan):
                groups.setdefault(name, []).append((index, row))
            yield collate(groups, self.device, share_prefix=self.share_prefix)

    def _losses(self, pack: Pack) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        outputs, head = self._outputs(pack)
        with self._autocast():
            if head is None:
                return logits_cross_entropy(outputs, pack.targets)
            return linear_cross_entropy(outputs, head, pack.targets)

    def _outputs(self, pack: Pack) -> tuple[torch.Tensor, nn.Linear | None]:
        """At the predictors of a pass, the hidden states and the head; or the logits, where there is no plain head."""
        attention.install(self.base, packed=True)
        self.routing.segments = pack.segments
        passed = {"input_ids": pack.input_ids, "position_ids": pack.position_ids, "documents": pack.documents}
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
