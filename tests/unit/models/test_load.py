"""A model is found and loaded whole, or one error says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from residency.config.model import Model
from residency.errors import ModelError
from residency.models.load import load_config, load_model, load_tokenizer, locate, versions

CPU = torch.device("cpu")


def load(folder: Path | str, **settings: Any) -> Any:
    return load_model(Model(id=str(folder), **settings), dtype=torch.float32, device=CPU)


def refusal(folder: Path | str, **settings: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load(folder, **settings)
    assert caught.value.hint
    return caught.value


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


# What loads


def test_a_folder_loads_with_every_weight_of_its_file(folder: Path) -> None:
    model = load(folder)
    saved = load_file(folder / "model.safetensors")
    assert not model.training
    assert {name for name, _ in model.named_parameters()} == set(saved)
    assert all(torch.equal(parameter, saved[name]) for name, parameter in model.named_parameters())


def test_weights_take_the_type_that_is_asked_for(folder: Path) -> None:
    model = load_model(Model(id=str(folder)), dtype=torch.bfloat16, device=CPU)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_quantising_holds_the_linear_layers_in_four_bits_and_nothing_else(folder: Path) -> None:
    model = load_model(Model(id=str(folder)), dtype=torch.float32, device=CPU, quantize=True)
    layer = model.model.layers[0].mlp.up_proj
    assert layer.weight.dtype == torch.uint8
    assert layer.weight.quant_state.nested
    assert layer.weight.quant_state.quant_type == "nf4"
    assert model.lm_head.weight.dtype == model.model.embed_tokens.weight.dtype == torch.float32
    ids = torch.arange(1, 20)[None]
    plain, quantised = load(folder)(ids).logits, model(ids).logits
    assert torch.nn.functional.cosine_similarity(plain, quantised, dim=-1).mean() > 0.9


def test_a_tokenizer_comes_with_its_template(folder: Path) -> None:
    tokenizer = load_tokenizer(Model(id=str(folder)))
    text = tokenizer.apply_chat_template([{"role": "user", "content": "turn on the light"}], tokenize=False)
    assert tokenizer.decode(tokenizer(text).input_ids) == "turn on the light<|end|>"


def test_config_and_tokenizer_need_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert load_config(Model(id=str(folder))).hidden_size == 64
    assert load_tokenizer(Model(id=str(folder))).eos_token == "<|end|>"


def test_a_hub_model_in_the_cache_needs_no_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cached = tmp_path / "hub" / "models--org--name"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    (cached / "snapshots").mkdir()
    folder.rename(cached / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert load("org/name").config.hidden_size == 64


def test_weights_in_several_files_load(folder: Path) -> None:
    split(folder)
    assert locate(Model(id=str(folder))) == folder
    load(folder)


def split(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, inside in parts.items():
        save_file({name: weights[name] for name in inside}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, inside in parts.items() for name in inside}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def test_versions_name_what_a_result_depends_on() -> None:
    found = versions()
    assert {"python", "torch", "transformers", "peft", "residency", "device", "cpu"} <= set(found)
    assert all(found.values())


# What is refused


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "there is no model folder" in refusal(tmp_path / "none").message


def test_a_file(folder: Path) -> None:
    assert "is a file" in refusal(folder / "config.json").message


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    assert "no config.json" in refusal(tmp_path).message


def test_an_adapter(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "name its base model" in refusal(tmp_path).message


def test_a_config_that_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type":')
    assert "config.json is damaged" in refusal(folder).message


def test_weights_cut_off(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-100])
    error = refusal(folder)
    assert "model.safetensors is damaged" in error.message
    assert error.code == "model_damaged"


def test_weights_that_are_no_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"no weights at all")
    assert "model.safetensors is damaged" in refusal(folder).message


def test_one_of_several_weight_files_missing(folder: Path) -> None:
    split(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "1 of 2 weight files missing (model-00002-of-00002.safetensors)" in refusal(folder).message


def test_a_weight_missing_is_never_made_up(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight" in refusal(folder).message


def test_weights_of_another_shape(folder: Path) -> None:
    change_config(folder, intermediate_size=96)
    assert "mlp" in refusal(folder).message


def test_pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    error = refusal(folder)
    assert error.code == "no_safetensors"
    assert "never loaded" in str(error)


def test_code_that_comes_with_a_model(folder: Path) -> None:
    change_config(folder, model_type="mystery", auto_map={"AutoConfig": "mystery.MysteryConfig"})
    (folder / "mystery.py").write_text("raise SystemExit('this must not run')")
    error = refusal(folder)
    assert error.code == "remote_code_refused"
    assert "mystery.MysteryConfig" in error.message
    assert "model.trust_remote_code: true" in str(error)


def test_an_unknown_architecture(folder: Path) -> None:
    change_config(folder, model_type="mystery", architectures=["Mystery"])
    assert "mystery" in refusal(folder).message


def test_a_model_that_is_no_causal_language_model(folder: Path) -> None:
    change_config(folder, model_type="t5", architectures=["T5Model"])
    assert "causal" in str(refusal(folder))


def test_a_model_quantised_for_inference(folder: Path) -> None:
    change_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    assert "quantised with gptq" in refusal(folder).message


def test_a_folder_without_a_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_tokenizer(Model(id=str(folder)))


def test_a_damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(Model(id=str(folder)))


@pytest.mark.parametrize("name", ["Qwen/Qwen3-4B", "gpt2"])
def test_a_hub_model_without_a_network(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    error = refusal(name)
    assert f"the model {name} is not on this machine and the Hub cannot be reached" in error.message
    assert f"residency models fetch {name}" in str(error)


@pytest.mark.parametrize("name", ["./mine", "/mine", "a/b/c", "~nobody/x"])
def test_a_path_is_never_looked_up_on_the_hub(name: str) -> None:
    assert "there is no model folder" in refusal(name).message


def test_a_name_that_cannot_be_a_hub_id() -> None:
    assert "neither a folder nor a Hub id" in refusal("what model?").message
