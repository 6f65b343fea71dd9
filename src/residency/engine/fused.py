"""A Llama-like decoder's training pass written out: forward, loss and backward without autograd.

It reads the weights that transformers' modules hold and gives the same loss and gradients; `recognise` says for which
models. Kept for the backward pass is only what a matrix product or the attention would have to be repeated for: norms
and SwiGLU are formed again. Layers named in `again` keep their input alone and are formed again as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from residency.engine import elementwise as ew
from residency.engine.divergence import Expected
from residency.engine.document_kernel import Documents, attend, attend_backward
from residency.engine.products import Adapters, Product, Quantized, Slots

CHUNK_ROWS = 2048
"""Rows of logits held at once."""
LARGEST_HEAD = 128


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """One pass: `tokens` in all, an equal share for each adapter."""

    input_ids: torch.Tensor
    """Shape (tokens,)."""
    position_ids: torch.Tensor
    documents: Documents
    predictors: torch.Tensor
    """Shape (targets,): positions whose next token is scored; the same number for each adapter."""
    targets: torch.Tensor
    """Those next tokens; -1 fills up."""
    slots: Slots
    expected: Expected | None = None
    """The loss is then the divergence from it, instead of that of `targets`."""


class FusedLayer:
    def __init__(self, layer: Any, *, fp8: bool) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.qkv = Product(_linears(attention, "q_proj", "k_proj", "v_proj"), fp8=fp8)
        self.o = Product(_linears(attention, "o_proj"), fp8=fp8)
        self.gate_up = Product(_linears(mlp, "gate_proj", "up_proj"), fp8=fp8)
        self.down = Product(_linears(mlp, "down_proj"), fp8=fp8)
        self.norms = (layer.input_layernorm, layer.post_attention_layernorm)
        self.head_dim, self.scale, self.fp8 = attention.head_dim, attention.scaling, fp8
        self.heads = [linear.out_features // attention.head_dim for linear in self.qkv.linears]

    def attention_half(self, x: torch.Tensor, one: Pass, angles: Any) -> tuple[torch.Tensor, tuple[Any, ...]]:
        """x + o(attention(qkv(norm(x)))), and what its backward pass needs."""
        y, inverse, *quantized = self._norm(0, x)
        qkv, inner = self.qkv.forward(y, one.slots, quantized=self._if_fp8(*quantized))
        q, k, v = self._heads(qkv)
        ew.rope(q, k, v, qkv, *angles)
        out, kept = attend(q, k, v, one.documents, self.scale)
        out = out.flatten(1)
        z, inner_o = self.o.forward(out, one.slots, residual=x)
        return z, (x, inverse, inner, qkv, out, kept, inner_o)

    def attention_half_backward(
        self, grad: torch.Tensor, kept_all: tuple[Any, ...], one: Pass, angles: Any, wants_input: bool
    ) -> torch.Tensor:
        x, inverse, inner, qkv, out, kept, inner_o = kept_all
        grad_inner = self.o.backward_b(grad, inner_o, one.slots)
        grad_out = self.o.backward(grad, grad_inner, one.slots)
        self.o.backward_a(out, grad_inner, one.slots)
        grads = attend_backward(self._one(grad_out), *self._heads(qkv), one.documents, self.scale, kept)
        ew.rope(*grads, qkv, *angles, inverse=True)
        grad_inner = self.qkv.backward_b(qkv, inner, one.slots)
        if not wants_input:
            y, *_ = self._norm(0, x)
            self.qkv.backward_a(y, grad_inner, one.slots)
            return grad
        grad_y = self.qkv.backward(qkv, grad_inner, one.slots)
        grad = ew.rms_norm_backward(grad_y, x, self.norms[0].weight, inverse, grad)
        self.qkv.backward_a(grad_y, grad_inner, one.slots)
        return grad

    def mlp_half(self, x: torch.Tensor, one: Pass) -> tuple[torch.Tensor, tuple[Any, ...]]:
        """x + down(silu(gate(norm(x))) * up(norm(x))), and what its backward pass needs."""
        y, inverse, *quantized = self._norm(1, x)
        inner = self.gate_up.inner(y, one.slots)
        gate_up = self.gate_up.base(y, self._if_fp8(*quantized))
        del y, quantized
        h, *quantized = ew.swiglu(gate_up, inner, self.gate_up.b(one.slots), self.fp8)
        z, inner_down = self.down.forward(h, one.slots, quantized=self._if_fp8(*quantized), residual=x)
        return z, (x, inverse, inner, gate_up, inner_down)

    def mlp_half_backward(self, grad: torch.Tensor, kept: tuple[Any, ...], one: Pass) -> torch.Tensor:
        x, inverse, inner, gate_up, inner_down = kept
        grad_inner_down = self.down.backward_b(grad, inner_down, one.slots)
        h = self.down.base_backward(grad)
        b, a = self.gate_up.b(one.slots), self.down.a(one.slots)
        quantized = ew.swiglu_backward(gate_up, h, inner, b, grad_inner_down, a, self.fp8)
        self.down.backward_a(h, grad_inner_down, one.slots)
        del h
        grad_inner = self.gate_up.backward_b(gate_up, inner, one.slots)
        grad_y = self.gate_up.backward(gate_up, grad_inner, one.slots, quantized=self._if_fp8(*quantized))
        del gate_up, quantized
        grad = ew.rms_norm_backward(grad_y, x, self.norms[1].weight, inverse, grad)
        self.gate_up.backward_a(grad_y, grad_inner, one.slots)
        return grad

    def _norm(self, which: int, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        norm = self.norms[which]
        return ew.rms_norm(x, norm.weight, norm.variance_epsilon, self.fp8)

    def _if_fp8(self, rows: torch.Tensor, scales: torch.Tensor) -> Quantized | None:
        return Quantized(rows, scales) if self.fp8 else None

    def _one(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(len(x), -1, self.head_dim)

    def _heads(self, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        q, k, v = torch.split(self._one(qkv), self.heads, dim=1)
        return q, k, v


class FusedDecoder:
    """`model` is a causal language model of transformers for which `recognise` gives no objection."""

    def __init__(self, model: Any, *, fp8: bool = False, again: frozenset[int] = frozenset()) -> None:
        self.embedding, self.rotary, self.norm = model.model.embed_tokens, model.model.rotary_emb, model.model.norm
        self.head: torch.Tensor = model.lm_head.weight.detach()
        self.layers = [FusedLayer(layer, fp8=fp8) for layer in model.model.layers]
        self.products = [p for layer in self.layers for p in (layer.qkv, layer.o, layer.gate_up, layer.down)]
        self.again = again
        self.adapters = Adapters(self.products, [], {})

    def use(self, names: list[str], peft_layer_of: dict[nn.Module, Any]) -> None:
        """Trains these adapters from now on; `peft_layer_of` gives the LoRA layer around each linear."""
        self.adapters = Adapters(self.products, names, peft_layer_of)
        self.adapters.refresh(names)

    @torch.no_grad()
    def forward_backward(self, one: Pass) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds the gradients of the summed losses to the stacks. Returns each target's loss, and whether it was the
        first choice. Nothing here waits for the device."""
        kept: list[Any] = []
        x, angles = self._forward(one, kept.append)
        losses, correct, grad = self._loss(x, one, gradient=True)
        del x
        assert grad is not None
        for number in reversed(range(len(self.layers))):
            layer, (attention, mlp) = self.layers[number], kept.pop()
            if number in self.again:
                x, attention = layer.attention_half(attention[0], one, angles)
                mlp = layer.mlp_half(x, one)[1]
                del x
            grad = layer.mlp_half_backward(grad, mlp, one)
            del mlp
            grad = layer.attention_half_backward(grad, attention, one, angles, wants_input=number > 0)
        return losses, correct

    @torch.no_grad()
    def score(self, one: Pass) -> tuple[torch.Tensor, torch.Tensor]:
        """Each target's loss, and whether it was the first choice."""
        x, _ = self._forward(one, lambda kept: None)
        return self._loss(x, one, gradient=False)[:2]

    def _forward(self, one: Pass, keep: Callable[[Any], None]) -> tuple[torch.Tensor, Any]:
        x = self.embedding(one.input_ids)
        cos, sin = self.rotary(x, one.position_ids[None])
        angles = (cos[0], sin[0])
        for number, layer in enumerate(self.layers):
            y, attention = layer.attention_half(x, one, angles)
            x, mlp = layer.mlp_half(y, one)
            keep(((attention[0],), ()) if number in self.again else (attention, mlp))
            del y, attention, mlp
        return x, angles

    def _loss(
        self, x: torch.Tensor, one: Pass, *, gradient: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        rows = x.index_select(0, one.predictors)
        y, inverse, *_ = ew.rms_norm(rows, self.norm.weight, self.norm.variance_epsilon, False)
        results = []
        for start in range(0, len(y), CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            logits = y[chunk] @ self.head.T
            if one.expected is None:
                results.append(ew.cross_entropy(logits, one.targets[chunk], gradient))
            else:
                each = one.expected.in_place(logits, chunk)
                results.append((each, torch.zeros_like(each)))
            if gradient:
                torch.mm(logits, self.head, out=y[chunk])
            del logits  # before the next ones are made
        losses, correct = (torch.cat(parts) for parts in zip(*results, strict=True))
        if not gradient:
            return losses, correct, None
        grad_rows = ew.rms_norm_backward(y, rows, self.norm.weight, inverse, torch.zeros_like(rows))
        # Places that fill up share position 0 with a real one, and their gradient is zero.
        return losses, correct, torch.zeros_like(x).index_add_(0, one.predictors, grad_rows)


def _linears(module: Any, *names: str) -> list[nn.Linear]:
    return [getattr(getattr(module, name), "base_layer", getattr(module, name)) for name in names]


def recognise(model: Any) -> str | None:
    """Why this model cannot train in fused passes; None if it can."""
    try:
        config, layer = model.config, model.model.layers[0]
        linears = [*_linears(layer.self_attn, "q_proj", "k_proj", "v_proj", "o_proj"),
                   *_linears(layer.mlp, "gate_proj", "up_proj", "down_proj")]  # fmt: skip
        norms = (layer.input_layernorm.variance_epsilon, layer.post_attention_layernorm.variance_epsilon)
    except AttributeError as missing:
        return f"its layers are not Llama's ({missing})"
    if config.model_type not in ("llama", "mistral", "qwen2") or len(norms) != 2:
        return f"{config.model_type} is not among the models it was tested with"
    if any(type(one) is not nn.Linear for one in linears):
        return "its linears are quantised"
    if layer.self_attn.head_dim % 8 or layer.self_attn.head_dim > LARGEST_HEAD:
        return f"the attention kernels take no heads of width {layer.self_attn.head_dim}"
    if getattr(config, "sliding_window", None) or config.hidden_act != "silu":
        return "it has a sliding window or another activation than SiLU"
    return None
