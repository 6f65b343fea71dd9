"""Models with random weights made on the device, and the two mixes of documents, for checks and timings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Phi3Config, Qwen3Config

from residency.data.messages import Origin, Rendered
from residency.engine.batch import needed_length, plan_packs
from residency.engine.engine import Engine
from residency.engine.speed import Speed

_ROPE = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
         "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "llama31-8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
                       "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
                       "rope_parameters": _ROPE},
    "llama32-1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
                       "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True,
                       "rope_parameters": _ROPE | {"factor": 32.0}},
    "smollm2-135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
                         "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True},
    "llama31-70b": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
                    "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
                    "rope_parameters": _ROPE},
    "check": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4, "num_attention_heads": 16,
                  "num_key_value_heads": 4, "vocab_size": 32000, "tie_word_embeddings": False},
}  # fmt: skip
SHAPES["check-qwen3"] = SHAPES["check"] | {"head_dim": 128}
SHAPES["qwen3-4b"] = {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "head_dim": 128,
                      "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 151936,
                      "tie_word_embeddings": True}  # fmt: skip
SHAPES["gemma3-1b"] = {"hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26, "head_dim": 256,
                       "num_attention_heads": 4, "num_key_value_heads": 1, "vocab_size": 262144,
                       "tie_word_embeddings": True}  # fmt: skip
SHAPES["phi3-mini"] = {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
                       "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064,
                       "tie_word_embeddings": False}  # fmt: skip
SHAPES["check-gemma3"] = SHAPES["gemma3-1b"] | {"num_hidden_layers": 4, "vocab_size": 32000}
SHAPES["check-phi3"] = SHAPES["phi3-mini"] | {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4,
                                              "num_attention_heads": 16, "num_key_value_heads": 16}  # fmt: skip
FAMILIES = {"gemma3": Gemma3TextConfig, "phi3": Phi3Config, "qwen3": Qwen3Config}


def random_model(name: str, dtype: torch.dtype = torch.bfloat16, device: str = "cuda", **changes: Any) -> Any:
    """Weights N(0, 0.02), the same for the same name on one device."""
    torch.manual_seed(0)
    family = next((config for part, config in FAMILIES.items() if part in name), LlamaConfig)
    config = family(max_position_embeddings=131072, rms_norm_eps=1e-5, **(SHAPES[name] | changes))
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    finally:
        torch.set_default_dtype(before)


def engine_with_adapters(
    model: Any, count: int, speed: Speed, *, dropout: float = 0.0, **settings: Any
) -> tuple[Engine, list[str]]:
    """LoRA r=16, alpha 32, on all linears; B starts at N(0, 0.001), since a zero would hide errors in A."""
    engine = Engine(model, speed=speed, **settings)
    names = [f"run{number}" for number in range(count)]
    for seed, name in enumerate(names):
        engine.add_adapter(name, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", lora_dropout=dropout,
                                            task_type="CAUSAL_LM"), seed=seed)  # fmt: skip
        generator = torch.Generator(model.device).manual_seed(seed)
        with torch.no_grad():
            for key, parameter in engine._trained[name].parameters.items():
                if "lora_B" in key:
                    parameter.normal_(std=1e-3, generator=generator)
        if engine._fast is not None:
            engine._fast.restored([name])
    return engine, names


def _row(ids: np.ndarray, first_trained: int) -> Rendered:
    return Rendered(ids.astype(np.int32), np.arange(len(ids)) >= max(1, first_trained), Origin("random", 1))


def mix_a(batch: int, length: int = 4096, seed: int = 0) -> Iterator[list[Rendered]]:
    """Documents of `length` tokens, all trained."""
    random = np.random.default_rng(seed)
    while True:
        yield [_row(random.integers(4, 4000, length), 1) for _ in range(batch)]


def mix_b(tokens: int, seed: int = 0) -> Iterator[list[Rendered]]:
    """Chat-like: log-normal lengths of about 590 tokens on average, the second half of each trained; packed ahead."""
    random = np.random.default_rng(seed)
    while True:
        rows = []
        for _ in range(600):
            length = int(np.clip(random.lognormal(6.2, 0.6), 60, 4096))
            rows.append(_row(random.integers(4, 4000, length), length // 2))
        packs = plan_packs([needed_length(row) for row in rows], tokens)
        for pack in random.permutation(len(packs) - 1):
            yield [rows[index] for index in packs[pack]]
