"""What training needs in memory, from shapes alone: part by part, in bytes.

Where the engine writes its passes out (`engine.fused`) the tensors are counted one by one; where autograd keeps them,
by a formula per layer. `bench/gpu_estimate.py` compares both with what a GPU's allocator says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from residency.config.model import Full, Lora, Peft, Qlora

if TYPE_CHECKING:
    from residency.models.facts import ModelFacts

NF4_BYTES = 0.516
"""Bytes per weight in NF4 with doubly quantised scales (arXiv 2305.14314, section 3)."""
PEFT_SHARE = 0.005
"""Trained share of the weights that is assumed for PEFT methods other than LoRA."""
CHUNK_ROWS = 2048
"""Rows of logits that fused passes hold at once."""
SMALLEST_RANK = 16
"""The fused kernels' tiles: lower ranks are filled up."""


@dataclass(frozen=True, slots=True)
class Passes:
    """How training passes are computed, as far as their memory and time depend on it."""

    bytes_per_element: int
    """Of weights and activations: 4 or 2."""
    fused: bool = False
    fp8: bool = False
    bf16_ends: int = 0
    """With FP8, so many layers at either end keep their weights as they are."""
    layers_again: int = 0
    """So many layers keep their input alone and are formed again in the backward pass."""
    offload: bool = False
    """Their inputs wait in the host's memory; two of them are on the device at a time."""
    graphs: bool = False
    """Passes and steps are recorded; what the optimizer needs for a moment then stays."""
    accumulated: bool = False
    """Several passes make a step, so that gradients are there while activations are."""


def trained_parameters(facts: ModelFacts, adapter: Lora[Any] | Full | Peft, rank: int = 16) -> int:
    """Weights that change; `rank` stands in where the adapter's is still `auto`."""
    if isinstance(adapter, Full):
        return facts.parameters
    if isinstance(adapter, Peft):
        return int(PEFT_SHARE * facts.parameters)
    return rank_of(adapter, rank) * sum(inputs + outputs for inputs, outputs in facts.linear_shapes)


def rank_of(adapter: Lora[Any] | Full | Peft, otherwise: int = 16) -> int:
    rank = getattr(adapter, "rank", otherwise)
    return rank if isinstance(rank, int) else otherwise


def fixed_bytes(facts: ModelFacts, adapter: Lora[Any] | Full | Peft, passes: Passes) -> dict[str, int]:
    """Memory that does not depend on the batch: weights, gradients and AdamW's two moments.

    What is trained is held in float32 with float32 gradients; a frozen base as it is computed, or as NF4 or FP8.
    """
    trained, element = trained_parameters(facts, adapter), passes.bytes_per_element
    linear = sum(inputs * outputs for inputs, outputs in facts.linear_shapes)
    largest = max((inputs * outputs for inputs, outputs in facts.linear_shapes), default=0)
    workspace = (2 if passes.fused else 1) * largest  # gate and up are formed as one
    if isinstance(adapter, Full):
        base = element * linear if element < 4 else 0  # autocast's rounded copies, kept for the backward pass
    elif isinstance(adapter, Qlora):
        base = int(NF4_BYTES * linear) + element * (facts.parameters - linear + workspace)
    elif passes.fp8:
        rounded = linear * max(0, facts.layers - 2 * passes.bf16_ends) // facts.layers
        base = rounded + element * (facts.parameters - rounded) + workspace
    else:
        base = element * facts.parameters
    stacks = stack_elements(facts, rank_of(adapter)) if passes.fused else 0
    return {
        "weights": base + 4 * trained + element * stacks,
        "gradients": 4 * trained + 4 * stacks,
        "optimizer": (20 if passes.graphs else 8) * trained,
    }


def stack_elements(facts: ModelFacts, rank: int) -> int:
    """Elements of A and B as fused passes hold them: q, k, v as one product, and gate, up."""
    h, f, q, kv = widths(facts)
    products = ((h, q + 2 * kv, 3), (q, h, 1), (h, 2 * f, 2), (f, h, 1))
    return facts.layers * sum(stacked_rank(parts * rank) * (inputs + outputs) for inputs, outputs, parts in products)


def stacked_rank(rank: int) -> int:
    return max(SMALLEST_RANK, 1 << (rank - 1).bit_length())


def widths(facts: ModelFacts) -> tuple[int, int, int, int]:
    """Of the hidden state, the feed-forward, all queries, and all keys (or values)."""
    return (
        facts.hidden_size,
        facts.intermediate_size,
        facts.heads * facts.head_dim,
        facts.kv_heads * facts.head_dim,
    )


def kept_bytes_per_token(facts: ModelFacts, adapter: Lora[Any] | Full | Peft, passes: Passes) -> int:
    """What all layers keep of one token for the backward pass."""
    if passes.fused:
        layer = fused_layer_bytes(facts, passes, rank_of(adapter))
    else:
        layer = plain_layer_bytes(facts, adapter, passes)
    again = min(passes.layers_again, facts.layers)
    held = 0 if passes.offload else again * input_bytes_per_token(facts, passes)
    return (facts.layers - again) * layer + held


def input_bytes_per_token(facts: ModelFacts, passes: Passes) -> int:
    """What a layer that is formed again keeps of one token."""
    return passes.bytes_per_element * facts.hidden_size


def host_bytes(facts: ModelFacts, passes: Passes, tokens: int) -> int:
    """Of the host's memory, for the inputs that wait there; torch pins blocks of powers of two."""
    block = 1 << max(0, tokens * input_bytes_per_token(facts, passes) - 1).bit_length()
    return min(passes.layers_again, facts.layers) * block if passes.offload else 0


def plain_layer_bytes(facts: ModelFacts, adapter: Lora[Any] | Full | Peft, passes: Passes) -> int:
    """Six vectors of the hidden size (two norms, attention's input and output, the residuals), keys and values, four of
    the feed-forward size (gate, up, their activation and product), and the norms' inputs in float32.

    In bf16, four more vectors of copies that autograd keeps; where autocast rounds, the residuals are in float32 too.
    """
    h, f, _, kv = widths(facts)
    half = passes.bytes_per_element < 4
    copies = (4 if half else 0) + (8 if half and isinstance(adapter, Full) else 0)
    return passes.bytes_per_element * ((6 + copies) * h + 2 * kv + 4 * f) + 8 * h


def fused_layer_bytes(facts: ModelFacts, passes: Passes, rank: int) -> int:
    """Both residual inputs, q, k and v, the attention's output, gate and up; each product's x A', and where it lies in
    the weights' border the room beside two of them; the norms' factors and the attention's log-sums in float32."""
    h, f, q, kv = widths(facts)
    inner = stacked_rank(3 * rank) + stacked_rank(2 * rank) + 2 * stacked_rank(rank) + (0 if passes.fp8 else 5 * rank)
    head_norms = q + kv if facts.model_type == "qwen3" else 0
    return passes.bytes_per_element * (2 * h + q + 2 * kv + q + head_norms + 2 * f + inner) + 4 * (2 + facts.heads)


def working_bytes(
    facts: ModelFacts, adapter: Lora[Any] | Full | Peft, passes: Passes, tokens: int, trained_tokens: int
) -> int:
    """The most that one moment needs beside what is kept: the loss, a layer's backward pass, or the step."""
    h, f, *_ = widths(facts)
    element, chunk = passes.bytes_per_element, min(CHUNK_ROWS, trained_tokens)
    on_the_way = 2 * tokens * input_bytes_per_token(facts, passes) if passes.offload else 0
    if passes.fused:
        again = fused_layer_bytes(facts, passes, rank_of(adapter)) * tokens if passes.layers_again else 0
        layer = tokens * (element * (f + 3 * h) + (2 * f + h if passes.fp8 else 0))
        loss = element * (chunk * facts.vocab_size + 4 * trained_tokens * h + 2 * tokens * h)
        return on_the_way + max(layer + again, loss)
    again = plain_layer_bytes(facts, adapter, passes) * tokens if passes.layers_again else 0
    loss = (4 + (2 if element < 4 else 4)) * chunk * facts.vocab_size
    if not isinstance(adapter, Full):
        return on_the_way + loss + again
    gradients = 4 * facts.parameters
    kept = tokens * kept_bytes_per_token(facts, adapter, passes)
    loss += 4 * facts.vocab_size * h - (0 if passes.accumulated else gradients)
    return on_the_way + max(loss + again, 2 * gradients - kept)
