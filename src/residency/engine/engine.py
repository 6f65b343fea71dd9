"""The only place where tensors are trained: one base model, and many named adapters or one full set of weights.

    forward_backward({adapter: rows})   adds gradients
    step({adapter: settings})           clips, updates, clears
    logprobs(adapter | None, rows)      scores
    sample(adapter | None, prompts)     generates
    save / restore(adapter, folder)

and for retention: `distributions` and `divergences` measure how far an adapter has moved from the base, `pull` adds the
gradient that draws it back, and `scale` moves it between the two.

`None` is the base model. Several adapters given at once share each pass over the frozen base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from residency.data.messages import Rendered
from residency.engine import attention, lora, state
from residency.engine.batch import Pack, Segment, collate, needed_length, plan_packs
from residency.engine.divergence import Distributions, Remembered, divergence, join, top_k
from residency.engine.loss import linear_cross_entropy, logits_cross_entropy
from residency.engine.memory import is_out_of_memory, release_memory
from residency.engine.optim import StepSettings, adamw, step_sizes
from residency.engine.sampling import Sampled, SamplingSettings, collect, stream
from residency.errors import ResourceError
from residency.models.fingerprint import fingerprint

FULL = "model"
"""The name under which full fine-tuning trains the model's own weights."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What one adapter's rows came to."""

    total: float
    """Sum of the negative log-likelihoods, in nats."""
    tokens: int
    """Trained tokens."""
    correct: int
    """Of these, how many were the model's first choice."""

    @property
    def mean(self) -> float:
        return self.total / max(1, self.tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """One row's trained tokens under a model."""

    logprobs: NDArray[np.float32]
    """Shape (trained,), in nats."""
    correct: NDArray[np.bool_]
    """Shape (trained,): whether the token was the first choice."""


@dataclass(slots=True)
class _Trained:
    """One named set of parameters, with its optimizer and what has been added since its last step."""

    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.AdamW
    tokens: int = 0


class Engine:
    """Owns the model from now on: its attention, and for LoRA the layers' forward, are replaced.

    `micro_batch_tokens` bounds the tokens of one pass; it is halved when memory runs out, at the same result.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        micro_batch_tokens: int = 2048,
        packing: bool = True,
        share_prefix: bool = True,
        autocast: torch.dtype | None = None,
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
        self._trained: dict[str, _Trained] = {}
        self._routing = lora.Routing()
        self._shared_passes = False
        self._since_step: list[Callable[[], dict[str, Loss]]] = []
        self._longest = 0
        self._head = _plain_head(model)

    # ---- adapters

    def add_adapter(self, name: str, config: PeftConfig, *, seed: int = 0) -> None:
        """Adds a trainable adapter in PEFT's own layers; its start depends on `seed` alone."""
        torch.manual_seed(seed)
        if isinstance(self.model, PeftModel):
            self.model.add_adapter(name, config)
        else:
            self.model = get_peft_model(self._base, config, adapter_name=name)
        self._shared_passes = lora.is_plain(self.model)
        if self._shared_passes:
            lora.use_shared_forward(self.model, self._routing)
        self._head = _plain_head(self._base)
        self._train(name, state.adapter_parameters(self.model, name))

    def train_all_weights(self) -> None:
        """Full fine-tuning: the model's own weights become trainable, under the name `model`."""
        self._train(FULL, {name: p.requires_grad_(True) for name, p in self._base.named_parameters()})

    def _train(self, name: str, parameters: dict[str, nn.Parameter]) -> None:
        self._trained[name] = _Trained(parameters, adamw(parameters.values()))
        for trained in self._trained.values():
            for parameter in trained.parameters.values():
                parameter.requires_grad_(True)

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
            losses |= self._add_gradients(partial(self._run, group), group.values())
        return losses

    def step(self, settings: Mapping[str, StepSettings]) -> dict[str, float]:
        """One AdamW step for each adapter named. Returns the norm of each one's whole gradient before clipping; where
        it is not finite, that adapter's weights stay as they are."""
        norms = {name: self._step(self._trained[name], one) for name, one in settings.items()}
        self._since_step.clear()
        self._longest = 0
        return norms

    def logprobs(self, adapter: str | None, rows: Sequence[Rendered]) -> list[Scores]:
        """Each row's trained tokens, scored without gradients."""
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

    def distributions(self, adapter: str | None, rows: Sequence[Rendered]) -> list[Distributions]:
        """What the model expects at each of a row's trained tokens: its likeliest tokens and the rest's mass."""
        found: list[Distributions | None] = [None] * len(rows)
        with torch.no_grad(), self._active(adapter):
            for pack in self._packs({adapter: rows}):
                everywhere = top_k(*self._outputs(pack))
                for position, row in enumerate(pack.rows):
                    found[row] = everywhere.part((pack.row_of_target == position).cpu().numpy())
        return [one for one in found if one is not None]

    def divergences(self, adapter: str | None, rows: Sequence[Remembered]) -> list[NDArray[np.float32]]:
        """KL(remembered || adapter) in nats at each of a row's trained tokens, shape (trained,), without gradients."""
        found: list[NDArray[np.float32] | None] = [None] * len(rows)
        with torch.no_grad(), self._active(adapter):
            for pack in self._packs({adapter: [one.row for one in rows]}):
                _, each = divergence(*self._outputs(pack), join([rows[i].base for i in pack.rows]))
                for position, row in enumerate(pack.rows):
                    found[row] = each[pack.row_of_target == position].cpu().numpy()
        return [one for one in found if one is not None]

    def pull(self, name: str, rows: Sequence[Remembered], weight: float) -> float:
        """Adds the gradient of `weight` times the mean divergence from what is remembered, beside the mean loss of what
        `forward_backward` has added since the last step: call it last. Returns the mean divergence in nats per token.

        Raises ResourceError as `forward_backward` does.
        """
        rendered = [one.row for one in rows]
        return self._add_gradients(partial(self._run_pull, name, rows, weight), [rendered])[name].mean

    def scale(
        self, name: str, share: float, trained: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor]
    ) -> None:
        """Sets what `trained` names to base + share * (trained - base), where a parameter not in `base` is 0."""
        with torch.no_grad():
            for key, value in trained.items():
                parameter = self._trained[name].parameters[key]
                start = base[key].to(parameter) if key in base else torch.zeros_like(parameter)
                parameter.copy_(torch.lerp(start, value.to(parameter), share))

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
        attention.install(self._base, packed=False)
        with self._active(adapter), self._autocast():
            self._routing.segments = (Segment(adapter, 0, 0),)
            yield from stream(self.model, prompts, settings)

    def save(self, name: str, folder: Path, *, optimizer: bool = True) -> None:
        """Writes the adapter in PEFT's format (full: the weights) and, to go on training, its optimizer."""
        state.save(self.model, name, self._trained[name].parameters, folder)
        if optimizer:
            state.save_optimizer(self._trained[name].optimizer, self._trained[name].parameters, folder)

    def restore(self, name: str, folder: Path, *, optimizer: bool = True) -> None:
        """Reads back what `save` wrote, to the bit."""
        state.restore(self.model, name, self._trained[name].parameters, folder)
        if optimizer:
            state.restore_optimizer(self._trained[name].optimizer, self._trained[name].parameters, folder)

    # ---- inside

    def _add_gradients(self, run: Callable[[], dict[str, Loss]], rows: Iterable[Sequence[Rendered]]) -> dict[str, Loss]:
        """Where memory runs out, halves the micro-batch and repeats all that was added since the last step."""
        self._since_step.append(run)
        self._longest = max([self._longest, *(needed_length(row) for part in rows for row in part)])
        todo = [run]
        while True:
            try:
                return [one() for one in todo][-1]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self._shrink_micro_batch()
            for trained in self._trained.values():
                trained.optimizer.zero_grad()
                trained.tokens = 0
            todo = list(self._since_step)

    def _run(self, group: Mapping[str, Sequence[Rendered]]) -> dict[str, Loss]:
        totals = {name: Loss(0.0, 0, 0) for name in group}
        with self._active(*group):
            for pack in self._packs(group):
                loss, losses, correct = self._losses(pack)
                loss.backward()  # type: ignore[no-untyped-call]
                for name, part in _by_adapter(pack, losses, correct).items():
                    before = totals[name]
                    totals[name] = Loss(
                        before.total + part.total, before.tokens + part.tokens, before.correct + part.correct
                    )
        for name, total in totals.items():
            self._trained[name].tokens += total.tokens
        return totals

    def _run_pull(self, name: str, rows: Sequence[Remembered], weight: float) -> dict[str, Loss]:
        tokens = sum(len(one.base) for one in rows)
        total, task_tokens = 0.0, max(1, self._trained[name].tokens)
        with self._active(name):
            for pack in self._packs({name: [one.row for one in rows]}):
                loss, each = divergence(*self._outputs(pack), join([rows[i].base for i in pack.rows]))
                (loss * (weight * task_tokens / tokens)).backward()  # type: ignore[no-untyped-call]
                total += float(each.sum())
        return {name: Loss(total, tokens, 0)}

    def _step(self, trained: _Trained, settings: StepSettings) -> float:
        gradients = [p.grad for p in trained.parameters.values() if p.grad is not None]
        if not gradients:
            return 0.0
        torch._foreach_mul_(gradients, 1.0 / max(1, trained.tokens))
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm):
            trained.optimizer.zero_grad()
            return float(norm)
        if settings.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(trained.parameters.values(), settings.max_grad_norm, norm)
        step_sizes(trained.optimizer, settings)
        trained.optimizer.step()
        trained.optimizer.zero_grad()
        trained.tokens = 0
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
        outputs, head = self._outputs(pack)
        with self._autocast():
            if head is None:
                return logits_cross_entropy(outputs, pack.targets)
            return linear_cross_entropy(outputs, head, pack.targets)

    def _outputs(self, pack: Pack) -> tuple[torch.Tensor, nn.Linear | None]:
        """At the predictors of a pass, the hidden states and the head; or the logits, where there is no plain head."""
        attention.install(self._base, packed=True)
        self._routing.segments = pack.segments
        passed = {"input_ids": pack.input_ids, "position_ids": pack.position_ids, "documents": pack.documents}
        with self._autocast():
            if self._head is None:
                return self._base(**passed, use_cache=False, logits_to_keep=pack.predictors).logits[0], None
            hidden = self._base.base_model(**passed, use_cache=False).last_hidden_state[0]
            return hidden[pack.predictors], self._head

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
        for trained in self._trained.values():
            for parameter in trained.parameters.values():
                parameter.requires_grad_(True)
        self.model.train()
        try:
            yield
        finally:
            self.model.eval()

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext()

    def _shrink_micro_batch(self) -> None:
        release_memory()
        longest = self._longest
        if self.micro_batch_tokens <= longest or not self.packing:
            raise ResourceError(
                f"memory ran out on a single row of {longest} tokens",
                code="out_of_memory",
                hint="lower data.max_length_tokens, or use adapter.kind: qlora or a smaller model",
            )
        self.micro_batch_tokens = max(longest, min(self.micro_batch_tokens // 2, self.micro_batch_tokens - 1))
        self.on_smaller_micro_batch(self.micro_batch_tokens)


def _by_adapter(pack: Pack, losses: torch.Tensor, correct: torch.Tensor) -> dict[str, Loss]:
    totals: dict[str, Loss] = {}
    for segment in pack.segments:
        mine = (pack.predictors >= segment.start) & (pack.predictors < segment.end)
        totals[str(segment.adapter)] = Loss(float(losses[mine].sum()), int(mine.sum()), int(correct[mine].sum()))
    return totals


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
