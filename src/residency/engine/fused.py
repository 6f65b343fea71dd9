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
from residency.engine import hopper
from residency.engine.divergence import Expected
from residency.engine.document_kernel import attend, attend_backward
from residency.engine.frozen import Workspace, is_nf4
from residency.engine.offload import HostMemory
from residency.engine.products import Adapters, Product, Quantized, Slots
from residency.engine.rows import Documents, with_room

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


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """Qwen3's norms of every query's and key's head, before their positions turn them."""

    q: Any
    k: Any

    def forward(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Norms q and k (tokens, heads, d) in their place. Returns what they were, and each head's factor."""
        kept = []
        for norm, x in ((self.q, q), (self.k, k)):
            rows = x.reshape(-1, x.shape[2])
            _, y, inverse, *_ = ew.rms_norm(rows, norm.weight, norm.variance_epsilon)
            x.copy_(y.view(x.shape))
            kept += [rows, inverse]
        return tuple(kept)

    def backward(self, grad_q: torch.Tensor, grad_k: torch.Tensor, kept: tuple[torch.Tensor, ...]) -> None:
        """From the gradients for the normed heads to those for what they were, in their place."""
        for norm, grad, rows, inverse in ((self.q, grad_q, *kept[:2]), (self.k, grad_k, *kept[2:])):
            flat = grad.reshape(rows.shape)
            back = ew.rms_norm_backward(flat, rows, norm.weight, inverse, torch.zeros_like(rows))
            grad.copy_(back.view(grad.shape))


class FusedLayer:
    def __init__(self, layer: Any, workspace: Workspace, *, fp8: bool, kernels: bool) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.qkv = Product(_linears(attention, "q_proj", "k_proj", "v_proj"), workspace, fp8=fp8)
        self.o = Product(_linears(attention, "o_proj"), workspace, fp8=fp8)
        gate_up = _linears(mlp, "gate_proj", "up_proj")
        may_alternate = kernels and gate_up[0].bias is None
        self.gate_up = Product(gate_up, workspace, fp8=fp8, may_alternate=may_alternate)
        self.down = Product(_linears(mlp, "down_proj"), workspace, fp8=fp8)
        self.norms = (layer.input_layernorm, layer.post_attention_layernorm)
        self.head_norms = HeadNorms(attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else None
        self.head_dim, self.scale, self.fp8 = attention.head_dim, attention.scaling, fp8
        self.heads = [linear.out_features // attention.head_dim for linear in self.qkv.linears]
        self.kernels = kernels

    def attention_half(
        self, x: torch.Tensor, delta: torch.Tensor | None, one: Pass, angles: Any
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[Any, ...]]:
        """From x + delta =: x to it, to o(attention(qkv(norm(x)))) as the next delta, and to what the backward pass
        needs, x first."""
        x, y, inverse, *quantized = self._norm(0, x, delta, self.qkv.room(one.slots))
        qkv, inner = self.qkv.forward(y, one.slots, quantized=self._if_fp8(*quantized))
        q, k, v = self._heads(qkv)
        raw = self.head_norms.forward(q, k) if self.head_norms else ()
        ew.rope(q, k, v, qkv[:, : self.qkv.out_features], *angles)
        out, kept = attend(q, k, v, one.documents, self.scale, self.kernels)
        out = out.flatten(1)
        delta, inner_o = self.o.forward(out, one.slots)
        return x, delta, (x, inverse, inner, qkv, raw, out, kept, inner_o)

    def attention_half_backward(
        self, grad: torch.Tensor, kept_all: tuple[Any, ...], one: Pass, angles: Any, room: int, wants_input: bool
    ) -> torch.Tensor:
        """From the gradient for x and o's output, which is one, to that for x; `room` is left beside it."""
        x, inverse, inner, qkv, raw, out, kept, inner_o = kept_all
        grad_inner = self.o.backward_b(grad, inner_o, one.slots)
        grad_out = self.o.backward(grad, grad_inner, one.slots)
        self.o.backward_a(out, grad_inner, one.slots)
        grads = attend_backward(self._one(grad_out), *self._heads(qkv), one.documents, self.scale, kept, self.kernels)
        ew.rope(*grads, qkv[:, : self.qkv.out_features], *angles, inverse=True)
        if self.head_norms:
            self.head_norms.backward(*self._heads(qkv)[:2], raw)
        grad_inner = self.qkv.backward_b(qkv, inner, one.slots)
        if not wants_input:
            self.qkv.backward_a(self._norm(0, x).rows, grad_inner, one.slots)
            return grad
        grad_y = self.qkv.backward(qkv, grad_inner, one.slots)
        grad = ew.rms_norm_backward(grad_y, x, self.norms[0].weight, inverse, grad, room=room)
        self.qkv.backward_a(grad_y, grad_inner, one.slots)
        return grad

    def mlp_half(
        self, x: torch.Tensor, delta: torch.Tensor, one: Pass
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[Any, ...]]:
        """The same for down(silu(gate(norm(x))) * up(norm(x)))."""
        slots = one.slots
        x, y, inverse, *quantized = self._norm(1, x, delta, self.gate_up.room(slots))
        if self.gate_up.alternating:
            gate_up, h, inner = self._up_alternating(y, slots)
        else:
            gate_up, inner = self.gate_up.forward(y, slots, quantized=self._if_fp8(*quantized), loose=True)
            del y, quantized
            b = self.gate_up.loose_b(slots)
            h, *quantized = ew.swiglu(self._tight(gate_up), inner, b, self.fp8, room=self.down.room(slots))
        delta, inner_down = self.down.forward(h, slots, quantized=self._if_fp8(*quantized))
        return x, delta, (x, inverse, inner, gate_up, inner_down)

    def mlp_half_backward(self, grad: torch.Tensor, kept: tuple[Any, ...], one: Pass, room: int) -> torch.Tensor:
        x, inverse, inner, gate_up, inner_down = kept
        quantized: tuple[torch.Tensor, ...] = ()
        grad_inner_down = self.down.backward_b(grad, inner_down, one.slots)
        if self.gate_up.alternating:
            h = self._down_alternating(grad, gate_up, one.slots)
        else:
            h = self.down.backward(grad, grad_inner_down, one.slots, loose=True)
            b, a = self.gate_up.loose_b(one.slots), self.down.loose_a(one.slots)
            quantized = ew.swiglu_backward(self._tight(gate_up), h, inner, b, grad_inner_down, a, self.fp8)
        self.down.backward_a(h, grad_inner_down, one.slots)
        del h
        grad_inner = self.gate_up.backward_b(gate_up, inner, one.slots)
        grad_y = self.gate_up.backward(gate_up, grad_inner, one.slots, quantized=self._if_fp8(*quantized))
        del gate_up, quantized
        grad = ew.rms_norm_backward(grad_y, x, self.norms[1].weight, inverse, grad, room=room)
        self.gate_up.backward_a(grad_y, grad_inner, one.slots)
        return grad

    def _up_alternating(self, y: torch.Tensor, slots: Slots) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        inner, weight = self.gate_up.inner(y, slots), self.gate_up.forward_matrix(slots)[0]
        gate_up = with_room(len(y), self.gate_up.out_features, self.gate_up.room(slots), y)
        h = with_room(len(y), self.down.in_features, self.down.room(slots), y)
        hopper.swiglu(y, weight, self._tight(gate_up), h[:, : self.down.in_features])
        return gate_up, h, inner

    def _down_alternating(self, grad: torch.Tensor, gate_up: torch.Tensor, slots: Slots) -> torch.Tensor:
        weight = self.down.backward_matrix(slots)[0]
        h = with_room(len(grad), self.down.in_features, 0, grad)
        hopper.swiglu_backward(grad[:, : len(weight)], weight, self._tight(gate_up), h)
        return h

    def _norm(self, which: int, x: torch.Tensor, delta: torch.Tensor | None = None, room: int = 0) -> ew.Normed:
        norm = self.norms[which]
        return ew.rms_norm(x, norm.weight, norm.variance_epsilon, self.fp8, delta=delta, room=room)

    def _if_fp8(self, *quantized: torch.Tensor) -> Quantized | None:
        return Quantized(*quantized) if self.fp8 else None

    def _tight(self, gate_up: torch.Tensor) -> torch.Tensor:
        return gate_up[:, : self.gate_up.out_features]

    def _one(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(len(x), -1, self.head_dim)

    def _heads(self, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        q, k, v = torch.split(self._one(qkv[:, : self.qkv.out_features]), self.heads, dim=1)
        return q, k, v


class FusedDecoder:
    """`model` is a causal language model of transformers for which `recognise` gives no objection."""

    def __init__(
        self,
        model: Any,
        *,
        fp8: frozenset[int] = frozenset(),
        kernels: bool = False,
        again: frozenset[int] = frozenset(),
        host: HostMemory | None = None,
    ) -> None:
        self.embedding, self.rotary, self.norm = model.model.embed_tokens, model.model.rotary_emb, model.model.norm
        self.head: torch.Tensor = model.lm_head.weight.detach()
        workspace = Workspace()
        self.layers = [
            FusedLayer(layer, workspace, fp8=number in fp8, kernels=kernels)
            for number, layer in enumerate(model.model.layers)
        ]
        self.products = [p for layer in self.layers for p in (layer.qkv, layer.o, layer.gate_up, layer.down)]
        self.again, self.host = again, host
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
        room = max(product.room(one.slots) for layer in self.layers for product in (layer.o, layer.down))
        x, delta, angles = self._forward(one, kept.append, self.host)
        losses, correct, grad = self._loss(x, delta, one, room)
        del x, delta
        assert grad is not None
        for number in reversed(range(len(self.layers))):
            layer, (attention, mlp) = self.layers[number], kept.pop()
            if number in self.again:
                x = self.host.take(attention[0]) if self.host else attention[0]
                x, delta, attention = layer.attention_half(x, None, one, angles)
                mlp = layer.mlp_half(x, delta, one)[2]
                del x, delta
            grad = layer.mlp_half_backward(grad, mlp, one, room)
            del mlp
            grad = layer.attention_half_backward(grad, attention, one, angles, room, wants_input=number > 0)
        return losses, correct

    @torch.no_grad()
    def score(self, one: Pass) -> tuple[torch.Tensor, torch.Tensor]:
        """Each target's loss, and whether it was the first choice."""
        x, delta, _ = self._forward(one, lambda kept: None)
        return self._loss(x, delta, one, None)[:2]

    def _forward(
        self, one: Pass, keep: Callable[[Any], None], host: HostMemory | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """The last hidden states are the sum of the first two."""
        x, delta = self.embedding(one.input_ids), None
        cos, sin = self.rotary(x, one.position_ids[None])
        angles = (cos[0], sin[0])
        for number, layer in enumerate(self.layers):
            x, delta, attention = layer.attention_half(x, delta, one, angles)
            x, delta, mlp = layer.mlp_half(x, delta, one)
            again = number in self.again
            keep(((host.put(attention[0]) if host else attention[0],), ()) if again else (attention, mlp))
            del attention, mlp
        assert delta is not None
        return x, delta, angles

    def _loss(
        self, x: torch.Tensor, delta: torch.Tensor, one: Pass, room: int | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """With `room`, the gradient for x too, and so much room beside it."""
        gradient, width = room is not None, x.shape[1]
        rows, delta = x.index_select(0, one.predictors), delta[:, :width].index_select(0, one.predictors)
        rows, y, inverse, *_ = ew.rms_norm(rows, self.norm.weight, self.norm.variance_epsilon, delta=delta)
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
        if room is None:
            return losses, correct, None
        grad_rows = ew.rms_norm_backward(y, rows, self.norm.weight, inverse, torch.zeros_like(rows))
        # Places that fill up share position 0 with a real one, and their gradient is zero.
        grad = x.new_zeros(len(x), width + room)
        grad[:, :width].index_add_(0, one.predictors, grad_rows)
        return losses, correct, grad


def _linears(module: Any, *names: str) -> list[nn.Linear]:
    return [getattr(getattr(module, name), "base_layer", getattr(module, name)) for name in names]


def in_nf4(model: Any) -> bool:
    """Of a model that is recognised: whether its linears are held in 4 bits."""
    return is_nf4(_linears(model.model.layers[0].mlp, "down_proj")[0])


def recognise(model: Any) -> str | None:
    """Why this model cannot train in fused passes; None if it can."""
    try:
        layer = model.model.layers[0]
        linears = [*_linears(layer.self_attn, "q_proj", "k_proj", "v_proj", "o_proj"),
                   *_linears(layer.mlp, "gate_proj", "up_proj", "down_proj")]  # fmt: skip
        norms = (layer.input_layernorm.variance_epsilon, layer.post_attention_layernorm.variance_epsilon)
    except AttributeError as missing:
        return f"its layers are not Llama's ({missing})"
    if not (all(type(one) is nn.Linear for one in linears) or all(map(is_nf4, linears))) or len(norms) != 2:
        return "its linears are neither plain nor all in NF4"
    return unfit(model.config)


def unfit(config: Any) -> str | None:
    """Why a model of this config cannot train in fused passes; None if its shape allows it."""
    if config.model_type not in ("llama", "mistral", "qwen2", "qwen3"):
        return f"{config.model_type} is not among the models it was tested with"
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if width % 8 or width > LARGEST_HEAD:
        return f"the attention kernels take no heads of width {width}"
    if getattr(config, "sliding_window", None) or config.hidden_act != "silu":
        return "it has a sliding window or another activation than SiLU"
    return None
