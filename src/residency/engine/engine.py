"""The only place where tensors are trained: one base model, and many named adapters or one full set of weights.

    forward_backward({adapter: rows})   adds gradients
    step({adapter: settings})           clips, updates, clears
    logprobs(adapter | None, rows)      scores
    sample(adapter | None, prompts)     generates
    save / restore(adapter, folder)

and for retention: `distributions` and `divergences` measure how far an adapter has moved from the base, `pull` adds the
gradient that draws it back, and `scale` moves it between the two.

`None` is the base model. Several adapters given at once share each pass over the frozen base on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from residency.data.messages import Rendered
from residency.engine import lora, state
from residency.engine.batch import needed_length
from residency.engine.compiled import Compilation
from residency.engine.divergence import Distributions, Remembered
from residency.engine.fast import FastPath
from residency.engine.late import Late, LateFloats, Loss
from residency.engine.loss import Scores
from residency.engine.memory import is_out_of_memory, release_memory
from residency.engine.optim import StepSettings, adamw
from residency.engine.plain import PlainPath
from residency.engine.sampling import Sampled, SamplingSettings, collect
from residency.engine.speed import Speed, choose
from residency.engine.state import Snapshot, Trained
from residency.engine.vectors import Vectors
from residency.errors import ConfigError, ResourceError
from residency.models.fingerprint import fingerprint

T = TypeVar("T")
AUTOMATIC = Speed()
FULL = "model"
"""The name under which full fine-tuning trains the model's own weights."""


@dataclass(frozen=True, slots=True)
class _Added:
    """Gradients added since the last step, and how to add them again."""

    run: Callable[[], dict[str, Loss]]
    rows: Sequence[Rendered]


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
        on_compiled: Callable[[Compilation], None] = lambda found: None,
    ) -> None:
        self.model: Any = model.requires_grad_(False).eval()
        self.device: torch.device = model.device
        self.micro_batch_tokens = micro_batch_tokens
        self.packing, self.autocast = packing, autocast
        self.on_smaller_micro_batch = on_smaller_micro_batch
        self._base = model
        self._trained: dict[str, Trained] = {}
        self._since_step: list[_Added] = []
        self._plain = PlainPath(model, share_prefix=share_prefix, autocast=autocast, on_compiled=on_compiled)
        self._fast: FastPath | None = None
        self._wanted = speed
        self.speed, self.reasons = choose(speed, model, plain_lora=False, autocast=autocast is not None)

    # ---- adapters

    def add_adapter(self, name: str, config: PeftConfig, *, seed: int = 0) -> None:
        """Adds a trainable adapter in PEFT's own layers; its start depends on `seed` alone. Raises ConfigError."""
        self.add_adapters([name], config, seed=seed)

    def add_adapters(self, names: Sequence[str], config: PeftConfig, *, seed: int = 0) -> None:
        """Adds adapters alike, each as it would be added alone, to the bit."""
        first, *others = names
        again = deepcopy(config)  # PEFT writes what it finds into the one it is given
        torch.manual_seed(seed)
        self._add_to_peft(first, config)
        parameters = state.adapter_parameters(self.model, first)
        self._trained[first] = Trained(parameters, adamw(parameters.values()))
        if others and self._plain.shared and lora.only_in_layers(self.model):
            lora.add_twins(self.model, first, others)
            for name in others:
                own = state.twin_parameters(self.model, parameters, first, name)
                self._trained[name] = Trained(own, adamw(own.values()))
            others = []
        self._require_gradients()
        self._choose_speed()
        if others:
            self.add_adapters(others, again, seed=seed)

    def _add_to_peft(self, name: str, config: PeftConfig) -> None:
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
        self._plain.adapted(self.model)

    def train_all_weights(self) -> None:
        """Full fine-tuning: the model's own weights become trainable, under the name `model`."""
        weights = dict(self._base.named_parameters())
        self._trained[FULL] = Trained(weights, adamw(weights.values()))
        self._require_gradients()
        self._plain.arrange(self.speed, fused=False)

    def drop_adapter(self, name: str) -> None:
        """Frees an adapter and its optimizer; there must be another one."""
        del self._trained[name]
        if self.model.active_adapter == name:
            self.model.set_adapter(next(iter(self._trained)))
        self.model.delete_adapter(name)
        self._require_gradients()
        if self._fast is not None:
            self._fast.use(self.model, {name: one.optimizer for name, one in self._trained.items()})

    def _require_gradients(self) -> None:
        """PEFT freezes all adapters but the active one."""
        self._plain.train([p for trained in self._trained.values() for p in trained.parameters.values()])

    def _choose_speed(self) -> None:
        """Once for the first adapter; one that the fused passes cannot train takes all back to the plain ones."""
        plain = self._plain.shared and lora.only_in_layers(self.model)
        if self._fast is None or not plain:
            self.speed, self.reasons = choose(self._wanted, self._base, plain_lora=plain, autocast=bool(self.autocast))
        if self._fast is not None and not self.speed.fused:
            self._fast.leave([name for name, trained in self._trained.items() if trained.tokens])
            self._fast = None
        elif self._fast is None and self.speed.fused:
            self._fast = FastPath(self._base, self.speed)
        self._plain.arrange(self.speed, fused=self._fast is not None)
        if self._fast is not None:
            self._fast.use(self.model, {name: one.optimizer for name, one in self._trained.items()})

    @property
    def compile_seconds(self) -> float:
        """What compiling layers has taken so far."""
        return self._plain.compiled.seconds if self._plain.compiled else 0.0

    @property
    def trained(self) -> list[str]:
        """The names of what is trained, oldest first."""
        return list(self._trained)

    def trainable_parameters(self, name: str) -> int:
        return sum(p.numel() for p in self._trained[name].parameters.values())

    @property
    def shares_passes(self) -> bool:
        """Whether several adapters go through the base together; else each is computed as if it were the only one."""
        return self._plain.shared and bool(self.speed.shared)

    # ---- the five verbs

    def forward_backward(self, batches: Mapping[str, Sequence[Rendered]]) -> dict[str, Loss]:
        """Adds the gradients of the summed losses; `step` divides by the trained tokens added since the last one.

        Raises ResourceError where not even one row fits into memory.
        """
        groups = [dict(batches)] if self.shares_passes else [{name: rows} for name, rows in batches.items()]
        losses: dict[str, Loss] = {}
        for group in groups:
            rows = [row for part in group.values() for row in part]
            losses |= self._add_gradients(_Added(partial(self._run, group), rows))
        return losses

    def step(self, settings: Mapping[str, StepSettings]) -> Mapping[str, float]:
        """One AdamW step for each adapter named. Returns the norm of each one's whole gradient before clipping; where
        it is not finite, that adapter's weights stay as they are."""
        self._since_step.clear()
        if self._fast is None:
            return {name: self._trained[name].step(one) for name, one in settings.items()}
        trained = {name: self._trained[name] for name in settings}
        norms = self._fast.step(settings, {name: one.tokens for name, one in trained.items()})
        for one in trained.values():
            one.tokens = 0
        return LateFloats(list(settings), norms)

    def logprobs(self, adapter: str | None, rows: Sequence[Rendered]) -> list[Scores]:
        """Each row's trained tokens, scored without gradients. Raises ResourceError like `forward_backward`."""
        return self.logprobs_of_each([adapter], rows)[0]

    def logprobs_of_each(self, adapters: Sequence[str | None], rows: Sequence[Rendered]) -> list[list[Scores]]:
        """The same under several adapters (None alone: the base), together where they can share passes."""

        def scored() -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
            if self._fast is None:
                return [self._plain.logprobs(adapter, rows, self._capacity) for adapter in adapters]
            return self._fast.logprobs(adapters, rows, self.micro_batch_tokens, packing=self.packing)

        found = self._within_memory(scored, rows)
        return [[Scores(-losses.numpy(), correct.numpy()) for losses, correct in each] for each in found]

    def choices(
        self, adapter: str | None, rows: Sequence[Rendered], tokens: Sequence[NDArray[np.int64]]
    ) -> list[NDArray[np.float32]]:
        """How likely each of some tokens is at each of a row's trained places, in nats, without gradients: `tokens` of
        each row and what is returned have the shape (trained, choices)."""
        found = self._within_memory(lambda: self._plain.choices(adapter, rows, tokens, self._capacity), rows)
        return [each.numpy() for each in found]

    # ---- retention

    def distributions(self, adapter: str | None, rows: Sequence[Rendered]) -> list[Distributions]:
        """What the model expects at each of a row's trained tokens: its likeliest tokens and the rest's mass.

        This and `divergences` always take the plain passes: they are what the result is served with.
        """
        return self._within_memory(lambda: self._plain.distributions(adapter, rows, self._capacity), rows)

    def divergences(self, adapter: str | None, rows: Sequence[Remembered]) -> list[NDArray[np.float32]]:
        """KL(remembered || adapter) in nats at each of a row's trained tokens, shape (trained,), without gradients."""
        rendered = [one.row for one in rows]
        found = self._within_memory(lambda: self._plain.divergences(adapter, rows, self._capacity), rendered)
        return [each.numpy() for each in found]

    def pull(self, name: str, rows: Sequence[Remembered], weight: float) -> Loss:
        """Adds the gradient of `weight` times the mean divergence from what is remembered, beside the mean loss of what
        `forward_backward` has added since the last step: call it last. The Loss returned is of the divergences.

        Raises ResourceError as `forward_backward` does.
        """
        return self._add_gradients(_Added(partial(self._run_pull, name, rows, weight), [one.row for one in rows]))[name]

    def scale(
        self, name: str, share: float, trained: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor]
    ) -> None:
        """Sets what `trained` names to base + share * (trained - base), where a parameter not in `base` is 0."""
        with torch.no_grad():
            for key, value in trained.items():
                parameter = self._trained[name].parameters[key]
                start = base[key].to(parameter) if key in base else torch.zeros_like(parameter)
                parameter.copy_(torch.lerp(start, value.to(parameter), share))
        if self._fast is not None:
            self._fast.restored([name])

    def base_fingerprint(self) -> str:
        """Which base this is; under full fine-tuning, before anything is trained."""
        adapters = [one.parameters.values() for name, one in self._trained.items() if name != FULL]
        return fingerprint(self._base, without=[p for parameters in adapters for p in parameters])

    def parameters(self, name: str) -> Mapping[str, nn.Parameter]:
        """What is trained under that name, by the parameters' full names."""
        return self._trained[name].parameters

    def sample(
        self, adapter: str | None, prompts: Sequence[Sequence[int]], settings: SamplingSettings
    ) -> list[Sampled]:
        return collect(self.stream(adapter, prompts, settings), len(prompts), settings.stop_ids)

    def stream(
        self, adapter: str | None, prompts: Sequence[Sequence[int]], settings: SamplingSettings
    ) -> Iterator[tuple[int, int]]:
        """Yields `(index of the prompt, token id)` as they come, the stop token included."""
        yield from self._plain.stream(adapter, prompts, settings)

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

    def snapshot(self, name: str) -> Snapshot | Vectors:
        """A copy of its weights and optimizer in memory, for `put_back`."""
        return state.snapshot(self._trained[name]) if self._fast is None else self._fast.snapshot(name)

    def put_back(self, snapshots: Mapping[str, Snapshot | Vectors]) -> None:
        """Each named one is as it was, to the bit."""
        for name, copy in snapshots.items():
            if not isinstance(copy, Vectors):
                state.put_back(self._trained[name], copy)
            else:  # made in fused passes
                assert self._fast is not None
                self._fast.put_back(name, copy)

    def weights(self, name: str) -> torch.Tensor:
        """All that is trained under that name, shape (weights,): the weights themselves, or a copy."""
        return state.weights(self._trained[name]) if self._fast is None else self._fast.weights(name)

    def set_weights(self, name: str, weights: torch.Tensor) -> None:
        if self._fast is None:
            state.set_weights(self._trained[name], weights)
        else:
            self._fast.set_weights(name, weights)

    # ---- inside

    @property
    def _capacity(self) -> int:
        return self.micro_batch_tokens if self.packing else 0

    def _add_gradients(self, added: _Added) -> dict[str, Loss]:
        """Where memory runs out, halves the micro-batch and repeats all that was added since the last step."""
        self._since_step.append(added)
        todo = [added]
        while True:
            try:
                return [one.run() for one in todo][-1]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self._forget_gradients()
            self._shrink_micro_batch([row for one in self._since_step for row in one.rows])
            todo = list(self._since_step)

    def _run(self, group: Mapping[str, Sequence[Rendered]]) -> dict[str, Loss]:
        if self._fast is not None:
            sums = self._fast.forward_backward(group, self.micro_batch_tokens, packing=self.packing)
        else:
            sums = self._plain.gradients(group, self._capacity)
        losses = {}
        for name, rows in group.items():
            losses[name] = Loss(Late(sums[name]), sum(int(row.trained.sum()) for row in rows))
            self._trained[name].tokens += losses[name].tokens
        return losses

    def _run_pull(self, name: str, rows: Sequence[Remembered], weight: float) -> dict[str, Loss]:
        trained, tokens = self._trained[name], sum(len(one.base) for one in rows)
        trained.tokens = max(1, trained.tokens)  # a pull alone makes a step too
        factor = weight * trained.tokens / max(1, tokens)
        if self._fast is not None:
            total = self._fast.pull(name, rows, factor, self.micro_batch_tokens, packing=self.packing)
        else:
            total = self._plain.pull(name, rows, factor, self._capacity)
        return {name: Loss(Late(torch.stack([total, torch.zeros_like(total)])), tokens)}

    def _forget_gradients(self) -> None:
        for trained in self._trained.values():
            trained.tokens = 0
            if self._fast is None:
                trained.optimizer.zero_grad()
        if self._fast is not None:
            self._fast.clear()

    def _within_memory(self, work: Callable[[], T], rows: Sequence[Rendered]) -> T:
        """Repeats `work` on `rows` with half the micro-batch where memory runs out."""
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self._shrink_micro_batch(rows)

    def _shrink_micro_batch(self, rows: Sequence[Rendered]) -> None:
        release_memory()
        lengths = [needed_length(row) for row in rows]
        longest = max(lengths)
        if self.micro_batch_tokens <= longest or not self.packing:
            raise ResourceError(
                f"memory ran out on a single row of {longest} tokens",
                code="out_of_memory",
                hint="set speed.recompute_layers to the model's number of layers (and speed.offload: true), lower "
                "data.max_length_tokens, or use adapter.kind: qlora or a smaller model",
            )
        self.micro_batch_tokens = max(longest, min(self.micro_batch_tokens, sum(lengths)) // 2)
        self.on_smaller_micro_batch(self.micro_batch_tokens)
