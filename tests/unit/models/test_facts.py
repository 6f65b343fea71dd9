"""What is said of a model before it is loaded is what it turns out to be."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    T5Config,
)

from residency.config.model import Full, Lora, Peft, Qlora
from residency.engine import fast_batch
from residency.engine.engine import Engine
from residency.engine.speed import Speed
from residency.errors import ModelError
from residency.models.facts import (
    estimate,
    matmul_rate,
    model_facts,
)
from residency.models.memory import Passes, fixed_bytes, kept_bytes_per_token, trained_parameters
from tests.conftest import random_rows

SIZES = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 512, "pad_token_id": 0,
}  # fmt: skip
FAMILIES = [
    LlamaConfig(**SIZES, tie_word_embeddings=True),
    LlamaConfig(**SIZES, tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
    MistralConfig(**SIZES),
    Qwen2Config(**SIZES),
    Qwen3Config(**SIZES, head_dim=32),
    Gemma2Config(**SIZES, head_dim=32),
    Gemma3TextConfig(**SIZES, head_dim=32),
    Phi3Config(**SIZES),
    GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=300, n_positions=512),
]


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: type(config).__name__)
def test_parameters_are_those_of_the_real_model(config: PreTrainedConfig) -> None:
    facts = model_facts(config)
    model = AutoModelForCausalLM.from_config(config)
    assert facts.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert facts.tied_embeddings == (model.lm_head.weight is model.get_input_embeddings().weight)
    assert facts.embedding_parameters == 300 * 64 * (1 if facts.tied_embeddings else 2)
    assert (facts.hidden_size, facts.layers, facts.heads, facts.vocab_size) == (64, 2, 4, 300)
    assert facts.context_length == 512


@pytest.mark.parametrize("config", FAMILIES[:-1], ids=lambda config: type(config).__name__)
def test_an_adapters_size_is_what_peft_makes_of_it(config: PreTrainedConfig) -> None:
    model = get_peft_model(
        AutoModelForCausalLM.from_config(config), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained_parameters(model_facts(config), Lora(rank=4)) == trained


def test_activations_are_what_backward_keeps() -> None:
    config = LlamaConfig(**SIZES)
    model, kept = AutoModelForCausalLM.from_config(config).model, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(torch.arange(250)[None]).last_hidden_state
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    measured = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)
    assert output.shape == (1, 250, 64)
    assert kept_bytes_per_token(model_facts(config), Full(), Passes(4)) * 250 == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize("again", [0, 1, 2])
def test_fused_passes_keep_what_is_counted(again: int) -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES))
    facts, passes, kept = model_facts(model.config), Passes(4, fused=True, layers_again=again), {}
    engine = Engine(model, speed=Speed(fused=True, layers_formed_again=again))
    engine.add_adapter("one", LoraConfig(r=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    engine.logprobs("one", random_rows(1))  # the fused passes are built before the first of them
    assert engine._fast is not None
    [filled] = fast_batch.passes({0: random_rows(8)}, 4096, torch.device("cpu"), packing=True)

    def keep(halves: tuple[tuple[torch.Tensor, ...], ...]) -> None:
        kept.update({t.untyped_storage().data_ptr(): t for half in halves for t in half if isinstance(t, torch.Tensor)})

    with torch.no_grad():
        engine._fast.decoder._forward(filled.tensors, keep)
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / len(filled.tensors.input_ids)
    assert kept_bytes_per_token(facts, Lora(rank=32), passes) == pytest.approx(measured, rel=0.05)


def test_memory_of_full_lora_and_qlora() -> None:
    facts = model_facts(FAMILIES[0])
    n = facts.parameters
    assert sum(fixed_bytes(facts, Full(), Passes(4)).values()) == 16 * n
    lora = Lora(rank=4)
    adapter = 16 * trained_parameters(facts, lora)
    assert sum(fixed_bytes(facts, lora, Passes(2)).values()) == 2 * n + adapter
    linear = sum(inputs * outputs for inputs, outputs in facts.linear_shapes)
    largest = max(inputs * outputs for inputs, outputs in facts.linear_shapes)
    expected = 0.516 * linear + 2 * (n - linear + largest) + adapter  # one weight at a time is formed in full
    assert sum(fixed_bytes(facts, Qlora(rank=4), Passes(2)).values()) == pytest.approx(expected, abs=1)
    assert fixed_bytes(facts, Peft(type="IA3"), Passes(2))["weights"] > 2 * n


def test_layers_that_stay_in_bf16_are_counted_as_such() -> None:
    facts = model_facts(FAMILIES[0])
    linear = sum(inputs * outputs for inputs, outputs in facts.linear_shapes)
    rounded, *kept = (
        fixed_bytes(facts, Lora(rank=4), Passes(2, fused=True, fp8=True, bf16_ends=ends))["weights"]
        for ends in range(facts.layers // 2 + 2)
    )
    assert [more - rounded for more in kept] == [
        min(2 * ends, facts.layers) * linear // facts.layers for ends in range(1, len(kept) + 1)
    ]


def run_estimate(**changes: Any) -> Any:
    settings: dict[str, Any] = {
        "micro_batch_tokens": 1000, "trained_share": 0.25, "total_tokens": 1_000_000, "row_length": 100.0,
        "passes": Passes(4), "matmul_flops": 1e11, "device": "cpu",
    }  # fmt: skip
    return estimate(model_facts(FAMILIES[0]), Lora(rank=4), **(settings | changes))


def test_inputs_that_wait_in_the_hosts_memory_are_counted_there() -> None:
    here, there = (run_estimate(passes=Passes(2, layers_again=2, offload=offload)) for offload in (False, True))
    inputs = 2 * 1000 * 2 * model_facts(FAMILIES[0]).hidden_size
    assert here.memory_bytes["activations"] - there.memory_bytes["activations"] == inputs
    assert there.memory_bytes["working"] - here.memory_bytes["working"] == inputs  # two are there at a time
    assert here.host_bytes == 0
    assert inputs <= there.host_bytes <= 2 * inputs


def test_an_estimate_adds_up_and_says_what_it_rests_on() -> None:
    found = run_estimate()
    assert set(found.memory_bytes) == {"weights", "gradients", "optimizer", "activations", "working"}
    assert found.total_bytes == sum(found.memory_bytes.values())
    assert found.memory_bytes["working"] == 250 * 300 * 8
    assert "1,000,000 tokens" in found.basis
    assert "100 GFLOP/s" in found.basis


def test_twice_the_tokens_take_twice_the_time_and_a_faster_machine_half() -> None:
    seconds = run_estimate().seconds
    assert run_estimate(total_tokens=2_000_000).seconds == pytest.approx(2 * seconds)
    assert run_estimate(matmul_flops=2e11).seconds == pytest.approx(seconds / 2)


def test_the_rate_of_this_machine_is_measured() -> None:
    assert 1e8 < matmul_rate(torch.device("cpu"), torch.float32, size=128, seconds=0.02) < 1e14


def test_a_model_that_is_no_causal_language_model_is_refused() -> None:
    with pytest.raises(ModelError, match="t5"):
        model_facts(T5Config())


def test_importing_facts_needs_no_torch() -> None:
    program = "import sys, residency.models.facts; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "set()"
