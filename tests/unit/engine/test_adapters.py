"""Every kind of adapter trains through the engine; what cannot is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftConfig
from transformers import LlamaForCausalLM

from residency.config.model import Lora, Peft, Qlora
from residency.config.model import Model as ModelConfig
from residency.engine.adapters import peft_config
from residency.engine.engine import Engine
from residency.engine.optim import StepSettings
from residency.errors import ConfigError
from residency.models.load import load_model
from tests.conftest import random_rows, tiny_llama


def named() -> LlamaForCausalLM:
    model = tiny_llama()
    model.name_or_path = "tiny"
    return model


def train(engine: Engine, steps: int = 12, learning_rate: float = 1e-2) -> list[float]:
    rows, losses = random_rows(4), []
    for _ in range(steps):
        losses.append(engine.forward_backward({"one": rows})["one"].mean)
        engine.step({"one": StepSettings(learning_rate)})
    return losses


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("IA3", {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
        ("vera", {"target_modules": ["q_proj", "v_proj"], "r": 8}),
        ("LOHA", {"target_modules": ["q_proj", "v_proj"], "r": 4}),
        ("LOKR", {"target_modules": ["q_proj", "v_proj"], "r": 4}),
        ("OFT", {"target_modules": ["q_proj", "v_proj"], "oft_block_size": 16, "use_cayley_neumann": False}),
    ],
)
def test_any_peft_method_trains_through_its_own_forward(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    engine = Engine(named())
    engine.add_adapter("one", peft_config(Peft(kind="peft", type=kind, options=options), "tiny"))
    before = {name: p.detach().clone() for name, p in engine.model.named_parameters()}
    losses = train(engine, learning_rate=5e-2)
    assert losses[-1] < losses[0] - 0.02
    changed = {name for name, p in engine.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert changed <= engine._trained["one"].parameters.keys()
    engine.save("one", tmp_path)
    scores = engine.logprobs("one", random_rows(3))
    again = Engine(named())
    again.add_adapter("one", peft_config(Peft(kind="peft", type=kind, options=options), "tiny"), seed=5)
    again.restore("one", tmp_path)
    for one, other in zip(scores, again.logprobs("one", random_rows(3)), strict=True):
        np.testing.assert_array_equal(one.logprobs, other.logprobs)


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "prefix_tuning", "P_TUNING"])
def test_methods_with_virtual_tokens_are_refused_by_name(kind: str) -> None:
    with pytest.raises(ConfigError, match=kind) as caught:
        peft_config(Peft(kind="peft", type=kind, options={"num_virtual_tokens": 4}), "tiny")
    assert caught.value.param == "adapter.type"


def test_unknown_methods_and_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="no_such is not a PEFT method"):
        peft_config(Peft(kind="peft", type="no_such"), "tiny")
    with pytest.raises(ConfigError, match="rnak"):
        peft_config(Peft(kind="peft", type="LOHA", options={"rnak": 4}), "tiny")


def test_lora_settings_reach_peft() -> None:
    config = peft_config(Lora(rank=3, alpha=7.0, dropout=0.25, targets=["q_proj"], dora=True), "tiny", [5, 6])
    assert (config.r, config.lora_alpha, config.lora_dropout, config.use_dora) == (3, 7.0, 0.25, True)
    assert config.target_modules == {"q_proj"}
    assert config.trainable_token_indices == [5, 6]


ALIKE = [Lora(rank=4), Lora(rank=4, targets=["q_proj"]), Lora(rank=4, dropout=0.1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("adapter", ALIKE)
def test_one_of_several_adapters_is_to_the_bit_what_it_would_be_alone(adapter: Any, dtype: torch.dtype) -> None:
    engine = Engine(named().to(dtype))
    engine.add_adapters(["one", "two", "three"], peft_config(adapter, "tiny"), seed=3)
    drawn = torch.get_rng_state()
    assert engine.trained == ["one", "two", "three"]
    for name in engine.trained:
        alone = Engine(named().to(dtype))
        alone.add_adapter(name, peft_config(adapter, "tiny"), seed=3)
        assert torch.equal(drawn, torch.get_rng_state())
        assert engine.model.peft_config[name] == alone.model.peft_config[name]
        assert list(engine.parameters(name)) == list(alone.parameters(name))
        for key, parameter in engine.parameters(name).items():
            assert torch.equal(parameter, alone.parameters(name)[key])
            assert parameter.dtype == torch.float32
            assert parameter.requires_grad


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_adapters_added_together_train_and_are_saved_as_those_alone(dropout: float, tmp_path: Path) -> None:
    together, rows = Engine(named()), random_rows(4)
    together.add_adapters(["one", "two"], peft_config(Lora(rank=4, dropout=dropout), "tiny"), seed=3)
    for name in together.trained:
        alone = Engine(named())
        alone.add_adapter(name, peft_config(Lora(rank=4, dropout=dropout), "tiny"), seed=3)
        for engine, folder in ((together, tmp_path / "together" / name), (alone, tmp_path / "alone" / name)):
            for step in range(3):
                torch.manual_seed(step)
                engine.forward_backward({name: rows})
                engine.step({name: StepSettings(1e-2)})
            folder.mkdir(parents=True)
            engine.save(name, folder)
        for file in (tmp_path / "alone" / name).glob("*.safetensors"):
            assert file.read_bytes() == (tmp_path / "together" / name / file.name).read_bytes(), file.name
        configs = [PeftConfig.from_pretrained(str(tmp_path / how / name)) for how in ("alone", "together")]
        assert configs[0] == configs[1]


def test_a_name_that_is_taken_is_refused() -> None:
    engine = Engine(named())
    engine.add_adapters(["one", "two"], peft_config(Lora(rank=4), "tiny"))
    with pytest.raises(ConfigError, match="already exists"):
        engine.add_adapter("two", peft_config(Lora(rank=4), "tiny"))


def test_qlora_trains_the_adapter_on_a_four_bit_base(tmp_path: Path) -> None:
    tiny_llama(hidden_size=128, intermediate_size=256).save_pretrained(tmp_path)
    model = load_model(ModelConfig(id=str(tmp_path)), dtype=torch.float32, device=torch.device("cpu"), quantize=True)
    engine = Engine(model)
    assert type(model.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    engine.add_adapters(["one", "two"], peft_config(Qlora(rank=4), str(tmp_path)))
    for one, two in zip(engine.parameters("one").values(), engine.parameters("two").values(), strict=True):
        assert torch.equal(one, two), "one seed, one start"
    before = {name: p.detach().clone() for name, p in engine.model.named_parameters()}
    losses = train(engine)
    assert losses[-1] < losses[0] - 0.2
    changed = {name for name, p in engine.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(engine._trained["one"].parameters)


def test_new_tokens_get_rows_of_their_own_that_travel_with_the_adapter(tmp_path: Path) -> None:
    engine = Engine(named())
    engine.add_adapter("one", peft_config(Lora(rank=4), "tiny", [5, 6]))
    embeddings = tiny_llama().get_input_embeddings().weight
    train(engine)
    engine.save("one", tmp_path)
    again = Engine(named())
    again.add_adapter("one", peft_config(Lora(rank=4), "tiny", [5, 6]), seed=9)
    again.restore("one", tmp_path)
    rows = random_rows(3)
    for one, other in zip(engine.logprobs("one", rows), again.logprobs("one", rows), strict=True):
        np.testing.assert_array_equal(one.logprobs, other.logprobs)
    frozen = [p for name, p in engine.model.named_parameters() if p.shape == embeddings.shape]
    assert frozen
    assert all(torch.equal(p, embeddings) for p in frozen), "the base keeps its rows"
