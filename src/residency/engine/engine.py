"""The only place where tensors are trained: one base model, and many named adapters or one full set of weights.

    forward_backward({adapter: rows})   adds gradients
    step({adapter: settings})           clips, updates, clears
    logprobs(adapter | None, rows)      scores
    sample(adapter | None, prompts)     generates
    save / restore(adapter, folder)

`None` is the base model. Several adapters given at once share each pass over the frozen base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from residency.data.messages import Rendered
from residency.engine import attention, lora, state
from residency.engine.batch import Pack, Segment, collate, needed_length, plan_packs
from residency.engine.fast import FastPath
from residency.engine.late import Late, LateFloats
from residency.engine.loss import Scores, linear_cross_entropy, logits_cross_entropy
from residency.engine.memory import is_out_of_memory, release_memory
from residency.engine.optim import StepSettings, adamw, step_sizes
from residency.engine.sampling import Sampled, SamplingSettings, collect, stream
from residency.engine.speed import Speed, choose
from residency.engine.state import Snapshot, Trained
from residency.errors import ConfigError, ResourceError

AUTOMATIC = Speed()
FULL = "model"
"""The name under which full fine-tuning trains the model's own weights."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What one adapter's rows came to. The device may still be working on it; whoever reads it waits."""

    sums: Late
    """Shape (2,): `total` and `correct`."""
    tokens: int
    """Trained tokens."""

    @property
    def total(self) -> float:
        """Sum of the negative log-likelihoods, in nats."""
        return float(self.sums.read()[0])

    @property
    def correct(self) -> int:
        """How many of the trained tokens were the model's first choice."""
        return int(self.sums.read()[1])

    @property
    def mean(self) -> float:
        return self.total / max(1, self.tokens)


class Engine:
    """Owns the model from now on: its attention, and for LoRA the layers' forward, are replaced.

    `micro_batch_tokens` bounds the tokens of one pass; it is halved when memory runs out, at the same result.
    `speed` says which speed-ups are used, and `reasons` why, or why not.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        micro_batch_tokens: int = 2048,
        packing: bool = True,
        share_prefix: bool = True,
        autocast: torch.dtype | None = None,
        speed: Speed = AUTOMATIC,
        on_smaller_micro_batch: Callable[[int], None] = lambda tokens: None,
    ) -> None:
        self.model: Any = model.requires_grad_(False).eval()
        self.device: torch.device = model.device
        self.micro_batch_tokens = micro_batch_tokens
        self.packing = packing
        self.share_prefix = share_prefix
        self.autocast = autocast
        self.on_smaller_micro_batch = on_smaller_micro_batch
        self._base = model
        self._trained: dict[str, Trained] = {}
        self._routing = lora.Routing()
        self._shared_passes = False
        self._since_step: list[dict[str, Sequence[Rendered]]] = []
        self._head = _plain_head(model)
        self._fast: FastPath | None = None
        self._wanted = speed
        self.speed, self.reasons = choose(speed, model, plain_lora=False, autocast=autocast is not None)

    # ---- adapters

    def add_adapter(self, name: str, config: PeftConfig, *, seed: int = 0) -> None:
        """Adds a trainable adapter in PEFT's own layers; its start depends on `seed` alone. Raises ConfigError."""
        torch.manual_seed(seed)
        try:
            if isinstance(self.model, PeftModel):
                self.model.add_adapter(name, config)
            else:
                self.model = get_peft_model(self._base, config, adapter_name=name)
        except (ValueError, TypeError) as error:  # PEFT's own refusals, such as target modules that are not there
            targets = getattr(config, "target_modules", None)
            raise ConfigError(
                f"adapter.targets: PEFT cannot adapt {targets}: {str(error).splitlines()[0]}", param="adapter.targets",
                hint="leave out adapter.targets for all linear layers, or name modules that the model has",
            ) from error  # fmt: skip
        self.model.set_adapter(name)
        self._shared_passes = lora.is_plain(self.model)
        if self._shared_passes:
            lora.use_shared_forward(self.model, self._routing)
        else:
            lora.use_own_forward(self.model)
        self._head = _plain_head(self._base)
        self._train(name, state.adapter_parameters(self.model, name))
        self._choose_speed()

    def train_all_weights(self) -> None:
        """Full fine-tuning: the model's own weights become trainable, under the name `model`."""
        self._train(FULL, {name: p.requires_grad_(True) for name, p in self._base.named_parameters()})

    def drop_adapter(self, name: str) -> None:
        """Frees an adapter and its optimizer; there must be another one."""
        del self._trained[name]
        self.model.set_adapter(next(iter(self._trained)))
        self.model.delete_adapter(name)
        self._require_gradients()
        if self._fast is not None:
            self._fast.use(self.model, list(self._trained))

    def _train(self, name: str, parameters: dict[str, nn.Parameter]) -> None:
        self._trained[name] = Trained(parameters, adamw(parameters.values()))
        self._require_gradients()

    def _require_gradients(self) -> None:
        """PEFT freezes all adapters but the active one."""
        for parameter in (p for trained in self._trained.values() for p in trained.parameters.values()):
            parameter.requires_grad_(True)

    def _choose_speed(self) -> None:
        """Once for the first adapter; one that the fused passes cannot train takes all back to the plain ones."""
        plain = self._shared_passes and lora.only_in_layers(self.model)
        if self._fast is None or not plain:
            autocast = self.autocast is not None
            self.speed, self.reasons = choose(self._wanted, self._base, plain_lora=plain, autocast=autocast)
        if self._fast is not None and not self.speed.fused:
            self._fast.leave([name for name, trained in self._trained.items() if trained.tokens])
            self._fast = None
        elif self._fast is None and self.speed.fused:
            self._fast = FastPath(self._base, self.speed)
        if self._fast is not None:
            self._fast.use(self.model, list(self._trained))

    def trainable_parameters(self, name: str) -> int:
        return sum(p.numel() for p in self._trained[name].parameters.values())

    # ---- the five verbs

    def forward_backward(self, batches: Mapping[str, Sequence[Rendered]]) -> dict[str, Loss]:
        """Adds the gradients of the summed losses; `step` divides by the trained tokens added since the last one.

        Raises ResourceError where not even one row fits into memory.
        """
        groups = [dict(batches)] if self._shared_passes else [{name: rows} for name, rows in batches.items()]
        losses: dict[str, Loss] = {}
        for group in groups:
            self._since_step.append(group)
            losses |= self._add_gradients(group)
        return losses

    def step(self, settings: Mapping[str, StepSettings]) -> Mapping[str, float]:
        """One AdamW step for each adapter named. Returns the norm of each one's whole gradient before clipping; where
        it is not finite, that adapter's weights stay as they are."""
        self._since_step.clear()
        if self._fast is None:
            return {name: self._step(self._trained[name], one) for name, one in settings.items()}
        trained = {name: self._trained[name] for name in settings}
        norms = self._fast.step(
            {name: one.optimizer for name, one in trained.items()},
            settings,
            {name: one.tokens for name, one in trained.items()},
        )
        for one in trained.values():
            one.tokens = 0
        return LateFloats(list(settings), norms)

    def logprobs(self, adapter: str | None, rows: Sequence[Rendered]) -> list[Scores]:
        """Each row's trained tokens, scored without gradients. Raises ResourceError like `forward_backward`."""
        while True:
            try:
                return self._scores(adapter, rows)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self._shrink_micro_batch(rows)

    def sample(
        self, adapter: str | None, prompts: Sequence[Sequence[int]], settings: SamplingSettings
    ) -> list[Sampled]:
        return collect(self.stream(adapter, prompts, settings), len(prompts), settings.stop_ids)

    def stream(
        self, adapter: str | None, prompts: Sequence[Sequence[int]], settings: SamplingSettings
    ) -> Iterator[tuple[int, int]]:
        """Yields `(index of the prompt, token id)` as they come, the stop token included."""
        attention.install(self._base, packed=False)
        with self._active(adapter), self._autocast():
            self._routing.segments = (Segment(adapter, 0, 0),)
            yield from stream(self.model, prompts, settings)

    def save(self, name: str, folder: Path, *, optimizer: bool = True) -> None:
        """Writes the adapter in PEFT's format (full: the weights) and, to go on training, its optimizer."""
        state.save(self.model, name, self._trained[name].parameters, folder)
        if optimizer:
            state.save_optimizer(self._trained[name].optimizer, self._trained[name].parameters, name, folder)

    def restore(self, name: str, folder: Path, *, optimizer: bool = True) -> None:
        """Reads back what `save` wrote, to the bit."""
        state.restore(self.model, name, self._trained[name].parameters, folder)
        if optimizer:
            state.restore_optimizer(self._trained[name].optimizer, self._trained[name].parameters, name, folder)
        if self._fast is not None:
            self._fast.restored([name])

    def snapshot(self, name: str) -> Snapshot:
        """A copy of its weights and optimizer in memory, for `put_back`."""
        return state.snapshot(self._trained[name])

    def put_back(self, snapshots: Mapping[str, Snapshot]) -> None:
        """Each named one is as it was, to the bit."""
        for name, snapshot in snapshots.items():
            state.put_back(self._trained[name], snapshot)
        if self._fast is not None:
            self._fast.restored(list(snapshots))

    # ---- inside

    def _add_gradients(self, group: Mapping[str, Sequence[Rendered]]) -> dict[str, Loss]:
        """Where memory runs out, halves the micro-batch and repeats all that was added since the last step."""
        todo = [group]
        while True:
            try:
                return [self._run(one) for one in todo][-1]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self._forget_gradients()
            self._shrink_micro_batch([row for one in self._since_step for rows in one.values() for row in rows])
            todo = list(self._since_step)

    def _run(self, group: Mapping[str, Sequence[Rendered]]) -> dict[str, Loss]:
        if self._fast is not None:
            sums = self._fast.forward_backward(group, self.micro_batch_tokens, packing=self.packing)
        else:
            sums = self._gradients(group)
        losses = {}
        for name, rows in group.items():
            losses[name] = Loss(Late(sums[name]), sum(int(row.trained.sum()) for row in rows))
            self._trained[name].tokens += losses[name].tokens
        return losses

    def _gradients(self, group: Mapping[str, Sequence[Rendered]]) -> dict[str, torch.Tensor]:
        """For each adapter the sum of the losses and the number of right first choices, shape (2,)."""
        sums = {name: torch.zeros(2, dtype=torch.float64, device=self.device) for name in group}
        with self._active(*group):
            for pack in self._packs(group):
                loss, losses, correct = self._losses(pack)
                loss.backward()  # type: ignore[no-untyped-call]
                for segment in pack.segments:
                    mine = (pack.predictors >= segment.start) & (pack.predictors < segment.end)
                    sums[str(segment.adapter)] += torch.stack([losses[mine].sum(), correct[mine].sum()])
        return sums

    def _forget_gradients(self) -> None:
        for trained in self._trained.values():
            trained.tokens = 0
            if self._fast is None:
                trained.optimizer.zero_grad()
        if self._fast is not None:
            self._fast.clear()

    def _scores(self, adapter: str | None, rows: Sequence[Rendered]) -> list[Scores]:
        if self._fast is not None:
            parts = self._fast.logprobs(adapter, rows, self.micro_batch_tokens, packing=self.packing)
            return [Scores(-losses.numpy(), correct.numpy()) for losses, correct in parts]
        scores: list[Scores | None] = [None] * len(rows)
        with torch.no_grad(), self._active(adapter):
            for pack in self._packs({adapter: rows}):
                _, losses, correct = self._losses(pack)
                owners = pack.row_of_target.cpu().numpy()
                losses_np, correct_np = losses.cpu().numpy(), correct.cpu().numpy()
                for position, row in enumerate(pack.rows):
                    mine = owners == position
                    scores[row] = Scores(-losses_np[mine], correct_np[mine])
        return [one for one in scores if one is not None]

    def _step(self, trained: Trained, settings: StepSettings) -> float:
        gradients = [p.grad for p in trained.parameters.values() if p.grad is not None]
        tokens, trained.tokens = trained.tokens, 0
        if not gradients:
            return 0.0
        torch._foreach_mul_(gradients, 1.0 / max(1, tokens))
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm):
            trained.optimizer.zero_grad()
            return float(norm)
        if settings.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(trained.parameters.values(), settings.max_grad_norm, norm)
        step_sizes(trained.optimizer, settings)
        trained.optimizer.step()
        trained.optimizer.zero_grad()
        return float(norm)

    def _packs(self, group: Mapping[Any, Sequence[Rendered]]) -> Iterator[Pack]:
        members = [(name, index, row) for name, rows in group.items() for index, row in enumerate(rows)]
        lengths = [needed_length(row) for _, _, row in members]
        capacity = self.micro_batch_tokens if self.packing else 0
        for plan in plan_packs(lengths, capacity):
            groups: dict[str | None, list[tuple[int, Rendered]]] = {}
            for name, index, row in (members[i] for i in plan):
                groups.setdefault(name, []).append((index, row))
            yield collate(groups, self.device, share_prefix=self.share_prefix)

    def _losses(self, pack: Pack) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        attention.install(self._base, packed=True)
        self._routing.segments = pack.segments
        passed = {"input_ids": pack.input_ids, "position_ids": pack.position_ids, "documents": pack.documents}
        with self._autocast():
            if self._head is None:
                logits = self._base(**passed, use_cache=False, logits_to_keep=pack.predictors).logits[0]
                return logits_cross_entropy(logits, pack.targets)
            hidden = self._base.base_model(**passed, use_cache=False).last_hidden_state[0]
            return linear_cross_entropy(hidden[pack.predictors], self._head, pack.targets)

    @contextmanager
    def _active(self, *names: str | None) -> Iterator[None]:
        """For layers that keep PEFT's own forward: one adapter at a time, or none."""
        if not isinstance(self.model, PeftModel) or self._shared_passes:
            yield
            return
        [name] = names
        if name is None:
            with self.model.disable_adapter():
                yield
            return
        self.model.set_adapter(name)
        self._require_gradients()
        self.model.train(torch.is_grad_enabled())  # dropout is for training alone
        try:
            yield
        finally:
            self.model.eval()

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext()

    def _shrink_micro_batch(self, rows: Sequence[Rendered]) -> None:
        release_memory()
        lengths = [needed_length(row) for row in rows]
        longest = max(lengths)
        if self.micro_batch_tokens <= longest or not self.packing:
            raise ResourceError(
                f"memory ran out on a single row of {longest} tokens",
                code="out_of_memory",
                hint="lower data.max_length_tokens, or use adapter.kind: qlora or a smaller model",
            )
        self.micro_batch_tokens = max(longest, min(self.micro_batch_tokens, sum(lengths)) // 2)
        self.on_smaller_micro_batch(self.micro_batch_tokens)


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
