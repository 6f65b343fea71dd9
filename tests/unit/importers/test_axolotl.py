"""An Axolotl config becomes a run of the same meaning, or is refused with every reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from residency.importers import axolotl_keys
from tests.unit.importers.configs import AXOLOTL, imported, kinds, note, refused, section


def test_a_lora_config_comes_over_with_its_values(tmp_path: Path) -> None:
    found = imported(tmp_path, """
base_model: org/base
revision_of_model: abc123
datasets:
  - {path: org/rows, type: chat_template}
val_set_size: 0.05
adapter: lora
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
sequence_len: 4096
sample_packing: false
micro_batch_size: 2
gradient_accumulation_steps: 4
num_epochs: 3
optimizer: adamw_torch
lr_scheduler: linear
learning_rate: 2e-4
warmup_steps: 0
weight_decay: 0.01
max_grad_norm: 0.5
bf16: true
load_best_model_at_end: true
evals_per_epoch: 1
early_stopping_patience: 5
save_steps: 50
save_total_limit: 2
seed: 7
""")  # fmt: skip
    assert found.run == {
        "name": "theirs",
        "model": {"id": "org/base", "revision": "abc123"},
        "data": {
            "train": "hub:org/rows", "format": "chat", "eval": "5%", "max_length_tokens": 4096, "over_long": "drop",
        },
        "method": {"name": "sft"},
        "adapter": {"kind": "lora", "rank": 32, "alpha": 16, "dropout": 0.05, "targets": "all-linear"},
        "train": {
            "epochs": 3, "batch_size": 8, "learning_rate": 2e-4, "schedule": "linear", "warmup_share": 0,
            "weight_decay": 0.01, "max_grad_norm": 0.5, "seed": 7, "eval_every_steps": "epoch",
            "save_every_steps": 50, "keep_checkpoints": 2, "patience": 5,
        },
        "retention": {"replay": False},
        "speed": {"precision": "bf16"},
    }  # fmt: skip
    assert not {"differs", "to_do", "left_out"} & set(kinds(found).values())


def test_what_is_absent_is_written_out_as_axolotl_would_take_it(tmp_path: Path) -> None:
    found = imported(tmp_path, AXOLOTL)
    assert section(found, "adapter") == {"kind": "full"}
    assert section(found, "data") == {
        "train": "hub:org/rows", "format": "chat", "eval": None, "max_length_tokens": 512, "over_long": "drop",
    }  # fmt: skip
    train = section(found, "train")
    assert (train["epochs"], train["batch_size"], train["schedule"], train["warmup_share"]) == (1, 1, "cosine", 0.03)
    assert (train["max_grad_norm"], train["seed"], train["keep_checkpoints"]) == (1.0, 42, 4)
    assert "(Axolotl's default)" in note(found, "sequence_len")


def test_every_key_is_named_whatever_it_is(tmp_path: Path) -> None:
    tables = axolotl_keys.NO_EFFECT | axolotl_keys.LEFT_OUT
    text = AXOLOTL + "".join(
        f"{key}: {value}\n" for key, value in zip(tables, ("1", "null", "false") * 999, strict=False)
    )
    found = imported(tmp_path, text)
    assert set(kinds(found)) >= {*tables, "base_model", "datasets", "learning_rate"}


def test_a_key_that_another_one_overrules_is_named(tmp_path: Path) -> None:
    found = imported(tmp_path, AXOLOTL + "warmup_steps: 5\nwarmup_ratio: 0.1\nload_in_8bit: true\noptimizer: muon\n"
                     "adam_beta2: 0.95\nbatch_size: 8\nmicro_batch_size: 2\n")  # fmt: skip
    assert kinds(found)["warmup_ratio"] == kinds(found)["load_in_8bit"] == "left_out"
    assert kinds(found)["adam_beta2"] == "differs"
    assert section(found, "train")["batch_size"] == 8


def test_an_unknown_key_is_named_with_what_may_be_meant(tmp_path: Path) -> None:
    found = imported(tmp_path, AXOLOTL + "wieght_decay: 0.1\nquite_other: 3\n")
    assert kinds(found)["wieght_decay"] == kinds(found)["quite_other"] == "left_out"
    assert "weight_decay is meant?" in note(found, "wieght_decay")
    assert "meant" not in note(found, "quite_other")


def test_packed_batches_count_tokens_and_so_become_auto(tmp_path: Path) -> None:
    """Axolotl's micro batch holds packs of sequence_len tokens: as rows it would make many times as many steps."""
    found = imported(tmp_path, AXOLOTL + "sample_packing: true\nsequence_len: 2048\nmicro_batch_size: 2\n"
                     "gradient_accumulation_steps: 4\n")  # fmt: skip
    assert section(found, "train")["batch_size"] == "auto"
    assert "16,384 divided by" in note(found, "micro_batch_size")


def test_max_steps_alone_says_when_to_stop(tmp_path: Path) -> None:
    train = section(imported(tmp_path, AXOLOTL + "max_steps: 500\nnum_epochs: 1\nwarmup_steps: 5\n"), "train")
    assert (train["max_steps"], train["epochs"], train["warmup_share"]) == (500, 500, 0.01)


def test_a_warm_up_of_more_than_20_steps_is_said_to_be_shorter(tmp_path: Path) -> None:
    assert kinds(imported(tmp_path, AXOLOTL + "warmup_ratio: 0.1\nmax_steps: 100\n"))["warmup_ratio"] == "carried"
    assert kinds(imported(tmp_path, AXOLOTL + "warmup_ratio: 0.1\nmax_steps: 1000\n"))["warmup_ratio"] == "differs"
    found = imported(tmp_path, AXOLOTL + "warmup_steps: 50\n")
    assert kinds(found)["warmup_steps"] == "differs"
    assert "50 divided by all steps" in note(found, "warmup_steps")


def test_the_constant_schedule_has_no_warm_up_and_the_other_one_has(tmp_path: Path) -> None:
    flat = section(imported(tmp_path, AXOLOTL + "lr_scheduler: constant\nwarmup_ratio: 0.1\n"), "train")
    assert (flat["schedule"], flat["warmup_share"]) == ("constant", 0)
    rising = section(imported(tmp_path, AXOLOTL + "lr_scheduler: constant_with_warmup\nwarmup_ratio: 0.1\n"), "train")
    assert (rising["schedule"], rising["warmup_share"]) == ("constant", 0.1)


def test_a_cosine_that_falls_to_its_peak_is_constant(tmp_path: Path) -> None:
    assert section(imported(tmp_path, AXOLOTL + "cosine_min_lr_ratio: 1.0\n"), "train")["schedule"] == "constant"
    assert kinds(imported(tmp_path, AXOLOTL + "cosine_min_lr_ratio: 0.1\n"))["cosine_min_lr_ratio"] == "differs"


def test_a_rate_for_another_optimizer_is_not_taken_for_adamw(tmp_path: Path) -> None:
    found = imported(tmp_path, AXOLOTL + "optimizer: muon\n")
    assert section(found, "train")["learning_rate"] == "auto"
    assert kinds(found)["learning_rate"] == "differs"
    eight_bit = imported(tmp_path, AXOLOTL + "optimizer: adamw_bnb_8bit\n")
    assert section(eight_bit, "train")["learning_rate"] == 2e-5


def test_rslora_keeps_its_scale(tmp_path: Path) -> None:
    """alpha / sqrt(rank) there is alpha' / rank here."""
    found = imported(tmp_path, AXOLOTL + "adapter: lora\nlora_r: 16\nlora_alpha: 8\npeft_use_rslora: true\n"
                     "lora_target_modules: [q_proj, v_proj]\n")  # fmt: skip
    adapter = section(found, "adapter")
    assert adapter["alpha"] / adapter["rank"] == 8 / 16**0.5
    assert adapter["targets"] == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("keys", "kind", "key", "became"),
    [
        ("adapter: qlora\nload_in_4bit: true", "qlora", "load_in_4bit", "carried"),
        ("adapter: lora\nload_in_8bit: true", "lora", "load_in_8bit", "differs"),
        ("adapter: lora\nload_in_4bit: true", "lora", "load_in_4bit", "no_effect"),
        ("adapter: lora\nlora_modules_to_save: [embed_tokens]", "lora", "lora_modules_to_save", "left_out"),
        ("adapter: lora\nlora_model_dir: earlier", "lora", "lora_model_dir", "left_out"),
    ],
)
def test_adapters(tmp_path: Path, keys: str, kind: str, key: str, became: str) -> None:
    found = imported(tmp_path, f"{AXOLOTL}lora_r: 8\nlora_alpha: 16\nlora_target_linear: true\n{keys}\n")
    assert section(found, "adapter")["kind"] == kind
    assert kinds(found)[key] == became


def rows(entry: str) -> str:
    return f"base_model: org/base\nlearning_rate: 1e-4\ndatasets:\n  - {entry}\n"


@pytest.mark.parametrize(
    ("entry", "format", "to_do"),
    [
        ("{path: o/d, type: chat_template, field_messages: conversations, message_property_mappings: {role: from, "
         "content: value}}", "sharegpt", None),
        ("{path: o/d, type: chat_template, field_messages: conversations}", "sharegpt", None),
        ("{path: o/d, type: chat_template, roles: {user: [human], assistant: [gpt]}, field_messages: conversations, "
         "message_field_role: from, message_field_content: value}", "sharegpt", None),
        ("{path: o/d, type: chat_template, field_messages: turns}", None, "turns to messages"),
        ("{path: o/d, type: chat_template, roles: {user: [customer]}}", "chat", "customer to user"),
        ("{path: o/d, type: chat_template, message_field_training: train}", "chat", "`weight`"),
        ("{path: o/d, type: alpaca}", "instruction", None),
        ("{path: o/d, type: 'alpaca:chat'}", "instruction", None),
        ("{path: o/d, type: completion}", "text", None),
        ("{path: o/d, type: completion, field: chapter}", "text", "chapter to text"),
        ("{path: o/d, type: {field_instruction: q, field_output: a, format: '{instruction}'}}", None, "prompt"),
        ("{path: o/d, type: my_module.rows}", None, "my_module.rows"),
        ("{path: o/d}", None, "no type"),
    ],
)  # fmt: skip
def test_rows(tmp_path: Path, entry: str, format: str | None, to_do: str | None) -> None:
    found = imported(tmp_path, rows(entry))
    assert section(found, "data").get("format") == format
    assert found.run["method"]["name"] == ("pretrain" if format == "text" else "sft")
    asked = [one.text for one in found.notes if one.kind == "to_do"]
    assert [to_do in text for text in asked] == [True] if to_do else not asked


def test_a_local_file_is_named_from_the_run_file(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").touch()
    for entry in (
        "{path: mine.jsonl, type: chat_template}",
        "{path: json, data_files: mine.jsonl, type: chat_template}",
    ):
        assert section(imported(tmp_path, rows(entry)), "data")["train"] == "mine.jsonl"
    found = imported(tmp_path, rows("{path: gone.jsonl, type: chat_template}"))
    assert kinds(found)["datasets.path"] == "to_do"


def test_a_part_of_a_hub_dataset_is_named(tmp_path: Path) -> None:
    found = imported(tmp_path, rows("{path: o/d, split: 'test[:10%]', type: chat_template, name: small, odd: 1}"))
    assert section(found, "data")["train"] == "hub:o/d:test"
    became = kinds(found)
    assert (became["datasets.split"], became["datasets.name"], became["datasets.odd"]) == (
        "differs",
        "to_do",
        "left_out",
    )


def test_several_datasets_are_joined_by_the_commands_that_are_named(tmp_path: Path) -> None:
    found = imported(tmp_path, rows("{path: o/a, type: alpaca}\n  - {path: o/b, type: chat_template}"))
    assert section(found, "data")["train"] == "train.jsonl"
    assert "residency convert hub:o/b part2.jsonl --to chat && cat part1.jsonl part2.jsonl" in note(found, "datasets")


def test_templates(tmp_path: Path) -> None:
    assert section(imported(tmp_path, AXOLOTL + "chat_template: chatml\n"), "model")["chat_template"] == "chatml"
    assert "chat_template" not in section(imported(tmp_path, AXOLOTL + "chat_template: tokenizer_default\n"), "model")
    assert kinds(imported(tmp_path, AXOLOTL + "chat_template: gemma3\n"))["chat_template"] == "differs"
    (tmp_path / "own.jinja").write_text("{{ messages }}", encoding="utf-8")
    found = imported(tmp_path, AXOLOTL + "chat_template: jinja\nchat_template_jinja: own.jinja\n")
    assert section(found, "model")["chat_template"] == "own.jinja"


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ("rl: dpo", "rl: dpo is not here yet: preference training"),
        ("rl: grpo", "rl: grpo is not here yet: reinforcement"),
        ("reward_model: true", "reward_model: trains a reward model"),
        ("processor_type: AutoProcessor", "processor_type: reads images"),
        ("model_type: AutoModelForSequenceClassification", "model_type: "),
        ("adapter: llama-adapter", "adapter: llama-adapter is not here"),
        ("adapter: lora", "lora_r: must be 1 or more, and Axolotl has no default"),
        ("learning_rate: .nan", "learning_rate: must be a number"),
        ("datasets: [{path: a, type: chat_template, roles: [user]}]", "datasets.roles: must name"),
        ("adapter: lora\nlora_r: 8\nlora_alpha: 8", "lora_target_modules: no module"),
        ("num_epochs: many", "num_epochs: must be a number (got 'many')"),
        ("micro_batch_size: 1.5", "micro_batch_size: must be a whole number (got 1.5)"),
        ("warmup_ratio: 1.5", "warmup_ratio: "),
        ("excess_length_strategy: shrink", "excess_length_strategy: must be one of"),
        ("datasets: []", "datasets: must be a list"),
    ],
)
def test_what_cannot_mean_the_same_is_refused(tmp_path: Path, keys: str, reason: str) -> None:
    text = "".join(
        line for line in AXOLOTL.splitlines(keepends=True) if not line.startswith(f"{keys.partition(':')[0]}:")
    )
    problems = refused(tmp_path, f"{text}{keys}\n")
    assert any(problem.startswith(reason) for problem in problems), problems


def test_all_reasons_are_given_at_once(tmp_path: Path) -> None:
    problems = refused(tmp_path, "base_model: org/base\nrl: kto\nadapter: lora\n")
    assert {problem.partition(":")[0] for problem in problems} >= {"rl", "lora_r", "learning_rate", "datasets"}
