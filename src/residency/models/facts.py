"""What a model is made of, and what training it will need in memory and time, before anything is loaded."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from residency.config.model import Full, Lora, Peft
from residency.errors import ModelError
from residency.models.memory import Passes, fixed_bytes, host_bytes, kept_bytes_per_token, working_bytes

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

EFFICIENCY = {"cpu": 0.8, "cuda": 0.35}
"""Share of the measured matrix-product rate that a whole training step reaches."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    model_type: str
    parameters: int
    """Tied embeddings count once."""
    embedding_parameters: int
    """Input embeddings, and the output layer unless it is tied to them."""
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    context_length: int
    tied_embeddings: bool
    linear_shapes: tuple[tuple[int, int], ...]
    """(inputs, outputs) of every linear layer but the output layer: what `targets: all-linear` adapts."""


@dataclass(frozen=True, slots=True)
class Estimate:
    memory_bytes: dict[str, int]
    """By part: weights, gradients, optimizer, activations, logits."""
    seconds: float
    """Time of the whole training."""
    basis: str
    """What the numbers rest on, as a sentence."""

    host_bytes: int = 0
    """Of the host's memory, beside the device's."""

    @property
    def total_bytes(self) -> int:
        """Of the device."""
        return sum(self.memory_bytes.values())


def model_facts(hf_config: PreTrainedConfig) -> ModelFacts:
    """Counts on torch's meta device, where a model has shapes but no weights: exact for every family, and quick.

    Raises ModelError where transformers has no causal language model for the config.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from residency.models.quiet import quiet_transformers

    # Code that came with the model was already allowed to run when it defined the config's class.
    remote = type(hf_config).__module__.startswith("transformers_modules")
    try:
        with quiet_transformers(), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(hf_config, trust_remote_code=remote)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ModelError(
            f"a model of type {hf_config.model_type} cannot be built: {str(error).splitlines()[0]}",
            hint="name a causal language model that this version of transformers knows",
            param="model.id",
        ) from error
    output, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    tied = output is None or output.weight is embeddings.weight
    text = hf_config.get_text_config()
    heads = text.num_attention_heads
    return ModelFacts(
        model_type=text.model_type,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        embedding_parameters=embeddings.weight.numel() + (0 if tied else output.weight.numel()),
        hidden_size=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        intermediate_size=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        vocab_size=embeddings.weight.shape[0],
        context_length=text.max_position_embeddings,
        tied_embeddings=tied,
        linear_shapes=tuple(
            (part.in_features, part.out_features)
            for part in model.modules()
            if isinstance(part, torch.nn.Linear) and part is not output
        ),
    )


def flops_per_token(facts: ModelFacts, adapter: Lora[Any] | Full | Peft, row_length: float) -> float:
    """Forward and backward of one token in a row of `row_length` tokens: 6 per weight, 4 where the weights stay frozen.

    The output layer is left to the trained tokens, and counted for all of them.
    """
    per_weight = 6 if isinstance(adapter, Full) else 4
    lookup = 0 if facts.tied_embeddings else facts.vocab_size * facts.hidden_size
    attention = 6 * facts.layers * facts.heads * facts.head_dim * row_length
    return per_weight * (facts.parameters - lookup) + attention


def estimate(
    facts: ModelFacts,
    adapter: Lora[Any] | Full | Peft,
    *,
    passes: Passes,
    micro_batch_tokens: int,
    trained_share: float,
    total_tokens: int,
    row_length: float,
    matmul_flops: float,
    device: str,
) -> Estimate:
    """Memory and time of a training.

    `total_tokens` pass through the model over all epochs, in rows of `row_length` tokens on average, of which
    `trained_share` carries loss; `matmul_flops` is this machine's rate (`matmul_rate`).
    """
    memory = fixed_bytes(facts, adapter, passes)
    memory["activations"] = micro_batch_tokens * kept_bytes_per_token(facts, adapter, passes)
    trained_tokens = int(micro_batch_tokens * trained_share)
    memory["working"] = working_bytes(facts, adapter, passes, micro_batch_tokens, trained_tokens)
    rate = matmul_flops * EFFICIENCY[device]
    flops = flops_per_token(facts, adapter, row_length) * total_tokens
    basis = (
        f"{total_tokens:,} tokens at {flops / max(total_tokens, 1) / 1e9:.2f} GFLOP each, on a machine measured at "
        f"{matmul_flops / 1e9:,.0f} GFLOP/s of which training reaches about {EFFICIENCY[device]:.0%}; memory by formula"
    )
    return Estimate(memory, flops / rate, basis, host_bytes(facts, passes, micro_batch_tokens))


def matmul_rate(device: torch.device, dtype: torch.dtype, *, size: int = 1024, seconds: float = 0.3) -> float:
    """Floating-point operations per second of a `size` x `size` matrix product, the median over `seconds`."""
    import torch

    left, right = torch.randn(2, size, size, device=device, dtype=dtype)

    def timed() -> float:
        start = time.perf_counter()
        torch.matmul(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    timed()
    end = time.perf_counter() + seconds
    durations = [timed()]
    while time.perf_counter() < end:
        durations.append(timed())
    return 2 * size**3 / sorted(durations)[len(durations) // 2]
