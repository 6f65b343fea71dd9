"""A LLaMA-Factory config becomes a run of the same meaning, or is refused with every reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from residency.importers import llama_factory_keys
from tests.unit.importers.configs import LLAMA_FACTORY, imported, kinds, note, refused, section


def test_a_lora_config_comes_over_with_its_values(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("[]", encoding="utf-8")
    found = imported(tmp_path, LLAMA_FACTORY + """
stage: sft
finetuning_type: lora
lora_rank: 16
lora_target: q_proj,v_proj
quantization_bit: 4
quantization_method: bnb
cutoff_len: 1024
mask_history: true
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 2.0
lr_scheduler_type: cosine
val_size: 0.1
eval_strategy: steps
eval_steps: 100
save_steps: 200
bf16: true
""")  # fmt: skip
    assert section(found, "data") == {
        "train": "mine.json", "format": "instruction", "eval": "10%", "max_length_tokens": 1024,
        "train_on": "last_answer",
    }  # fmt: skip
    assert section(found, "adapter") == {
        "kind": "qlora", "rank": 16, "alpha": 32, "dropout": 0.0, "targets": ["q_proj", "v_proj"],
    }  # fmt: skip
    assert section(found, "train") == {
        "epochs": 2, "batch_size": 16, "learning_rate": 1e-4, "schedule": "cosine", "warmup_share": 0.0,
        "weight_decay": 0.0, "max_grad_norm": 1.0, "seed": 42, "save_every_steps": 200, "eval_every_steps": 100,
        "patience": None,
    }  # fmt: skip


def test_what_is_absent_is_written_out_as_llama_factory_would_take_it(tmp_path: Path) -> None:
    found = imported(tmp_path, LLAMA_FACTORY)
    assert section(found, "adapter") == {
        "kind": "lora", "rank": 8, "alpha": 16, "dropout": 0.0, "targets": "all-linear",
    }  # fmt: skip
    train = section(found, "train")
    assert (train["epochs"], train["batch_size"], train["learning_rate"]) == (3, 8, 5e-5)
    assert (train["schedule"], train["warmup_share"]) == ("linear", 0.0)
    assert section(found, "data")["max_length_tokens"] == 2048


def test_every_key_is_named_whatever_it_is(tmp_path: Path) -> None:
    tables = llama_factory_keys.NO_EFFECT | llama_factory_keys.LEFT_OUT
    text = LLAMA_FACTORY + "".join(
        f"{key}: {value}\n" for key, value in zip(tables, ("1", "null", "false") * 99, strict=False)
    )
    assert set(kinds(imported(tmp_path, text))) >= {*tables, "stage", "do_train", "dataset", "model_name_or_path"}


def test_packing_that_lets_rows_see_one_another_is_named(tmp_path: Path) -> None:
    assert kinds(imported(tmp_path, LLAMA_FACTORY + "packing: true\n"))["packing"] == "differs"
    neat = imported(tmp_path, LLAMA_FACTORY + "neat_packing: true\n")
    assert kinds(neat)["packing"] == "no_effect"
    assert section(neat, "train")["batch_size"] == "auto"
    assert section(imported(tmp_path, LLAMA_FACTORY), "train")["batch_size"] == 8


def test_orthogonal_fine_tuning_goes_through_peft(tmp_path: Path) -> None:
    found = imported(tmp_path, LLAMA_FACTORY + "finetuning_type: oft\noft_block_size: 16\n")
    assert section(found, "adapter")["type"] == "OFT"
    assert section(found, "adapter")["options"]["oft_block_size"] == 16


def test_optimizers_of_their_own_leave_the_rate_to_auto(tmp_path: Path) -> None:
    found = imported(tmp_path, LLAMA_FACTORY + "finetuning_type: full\nuse_galore: true\nlearning_rate: 1e-5\n")
    assert section(found, "train")["learning_rate"] == "auto"
    assert kinds(found)["use_galore"] == kinds(found)["learning_rate"] == "differs"


INFO = {
    "plain": {"file_name": "plain.json"},
    "talk": {"hf_hub_url": "org/talk", "formatting": "sharegpt"},
    "open": {"hf_hub_url": "org/open", "formatting": "sharegpt", "columns": {"messages": "messages"},
             "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}},
    "pairs": {"hf_hub_url": "org/pairs", "columns": {"prompt": "prompt", "response": "completion"}},
    "other": {"hf_hub_url": "org/other", "columns": {"prompt": "question", "response": "answer"}},
    "books": {"hf_hub_url": "org/books", "columns": {"prompt": "text"}},
    "prefer": {"hf_hub_url": "org/prefer", "ranking": True},
    "pictures": {"hf_hub_url": "org/pictures", "columns": {"messages": "m", "images": "images"}},
}  # fmt: skip


def config_of(folder: Path, dataset: str, more: str = "") -> str:
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "dataset_info.json").write_text(json.dumps(INFO), encoding="utf-8")
    return f"model_name_or_path: org/base\ndo_train: true\ndataset: {dataset}\n{more}"


@pytest.mark.parametrize(
    ("dataset", "more", "source", "format"),
    [
        ("plain", "", "data/plain.json", "instruction"),
        ("talk", "", "hub:org/talk", "sharegpt"),
        ("open", "", "hub:org/open", "chat"),
        ("pairs", "", "hub:org/pairs", "prompt_completion"),
        ("other", "", "hub:org/other", None),
        ("books", "stage: pt\n", "hub:org/books", "text"),
        ("plain, talk", "", "train.jsonl", "chat"),
    ],
)
def test_rows(tmp_path: Path, dataset: str, more: str, source: str, format: str | None) -> None:
    found = imported(tmp_path, config_of(tmp_path, dataset, more))
    data = section(found, "data")
    assert (data["train"], data.get("format")) == (source, format)
    if dataset == "other":
        assert "question to instruction, answer to output" in note(found, "dataset other")
    if "," in dataset:
        assert "residency convert data/plain.json part1.jsonl --to chat" in note(found, "dataset")


def test_without_dataset_info_the_rows_are_yours_to_name(tmp_path: Path) -> None:
    found = imported(tmp_path, "model_name_or_path: org/base\ndo_train: true\ndataset: mine\n")
    assert kinds(found)["dataset_dir"] == "to_do"
    assert section(found, "data")["train"] == "mine.jsonl"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LLAMA_FACTORY + "stage: dpo\n", "stage: dpo is not here yet: preference training"),
        (LLAMA_FACTORY + "output_dir: ${model_name_or_path}/out\n", "output_dir: is put together by OmegaConf"),
        (LLAMA_FACTORY + "stage: rm\n", "stage: rm is not here"),
        (LLAMA_FACTORY + "finetuning_type: freeze\n", "finetuning_type: freeze"),
        ("model_name_or_path: org/base\nexport_dir: merged\n", "do_train: is not true"),
        ("model_name_or_path: org/base\ndo_train: true\n", "dataset: is missing"),
        (LLAMA_FACTORY.replace("dataset: mine", "dataset: yours"), "dataset: yours is not in"),
    ],
)
def test_what_cannot_mean_the_same_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    problems = refused(tmp_path, text)
    assert any(problem.startswith(reason) for problem in problems), problems


@pytest.mark.parametrize(("dataset", "reason"), [("prefer", "preferences"), ("pictures", "images")])
def test_rows_of_another_kind_are_refused(tmp_path: Path, dataset: str, reason: str) -> None:
    assert reason in " ".join(refused(tmp_path, config_of(tmp_path, dataset)))


V1 = """
model: org/base
model_class: llm
train_dataset: sets.yaml
cutoff_len: 512
micro_batch_size: 2
max_steps: 40
peft_config: {name: lora, r: 16, lora_alpha: 32, target_modules: all}
quant_config: {name: bnb, quantization_bit: 4}
dist_config: {name: fsdp2}
"""


def test_the_second_trainer_has_defaults_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("[]", encoding="utf-8")
    (tmp_path / "sets.yaml").write_text("a: {path: rows.json, source: local, converter: alpaca}\n", encoding="utf-8")
    found = imported(tmp_path, V1)
    assert section(found, "data") == {
        "train": "rows.json", "format": "instruction", "eval": None, "max_length_tokens": 512,
    }  # fmt: skip
    assert section(found, "adapter") == {
        "kind": "qlora", "rank": 16, "alpha": 32, "dropout": 0.05, "targets": "all-linear",
    }  # fmt: skip
    train = section(found, "train")
    assert (train["max_steps"], train["batch_size"], train["learning_rate"]) == (40, 2, 1e-4)
    assert (train["schedule"], train["warmup_share"], train["weight_decay"]) == ("constant", 0, 0.01)
    assert kinds(found)["dist_config"] == "left_out"


def test_the_second_trainers_preferences_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sets.yaml").write_text("a: {path: org/rows, converter: pair}\n", encoding="utf-8")
    assert "preferences" in " ".join(refused(tmp_path, V1))
