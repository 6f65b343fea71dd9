"""Configs of other tools, imported and trained as they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

from residency.records import RunFolder
from residency.stages.prepare import read_resolved
from tests.e2e.conftest import residency
from tests.e2e.tiny import rows, write_rows


def test_an_axolotl_config_trains_with_its_own_settings(project: Path, tiny_model: Path) -> None:
    Path("axolotl.yaml").write_text(
        f"""
base_model: {tiny_model}
datasets:
  - {{path: train.jsonl, type: chat_template}}
val_set_size: 0.1
sequence_len: 64
adapter: lora
lora_r: 4
lora_alpha: 16
peft_use_rslora: true
lora_target_modules: [q_proj, v_proj]
micro_batch_size: 2
gradient_accumulation_steps: 3
max_steps: 5
lr_scheduler: constant_with_warmup
warmup_steps: 1
learning_rate: 1e-3
weight_decay: 0.1
bf16: false
""",
        encoding="utf-8",
    )
    assert residency("import", "axolotl.yaml", "imported.yaml").exit_code == 0
    outcome = residency("train", "imported.yaml", "--set", "eval.probes=0")
    assert outcome.exit_code == 0, outcome.stderr
    run = RunFolder(project / "runs" / "axolotl")
    resolved, _ = read_resolved(run)
    assert resolved.train.batch_size == 6
    assert [metric.learning_rate for metric in run.metrics() if metric.split == "train"] == [0.0005] + [0.001] * 4
    adapter = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"], set(adapter["target_modules"])) == (4, 32, {"q_proj", "v_proj"})


def test_datasets_of_llama_factory_are_joined_by_the_commands_that_are_named(project: Path, tiny_model: Path) -> None:
    talk = [
        {"conversations": [{"from": "human", "value": f"blue {i}"}, {"from": "gpt", "value": "sky"}]} for i in range(9)
    ]
    Path("talk.json").write_text(json.dumps(talk), encoding="utf-8")
    write_rows(Path("chats.jsonl"), rows(9, start=50))
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    info = {
        "talk": {"file_name": "talk.json", "formatting": "sharegpt"},
        "chats": {
            "file_name": "chats.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": tags,
        },
    }
    Path("dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    Path("train.jsonl").unlink()
    Path("factory.yaml").write_text(
        f"model_name_or_path: {tiny_model}\ndo_train: true\ndataset: talk, chats\ndataset_dir: .\nmax_steps: 3\n",
        encoding="utf-8",
    )
    answer = residency("import", "factory.yaml", "imported.yaml", "--json").json
    asked = " ".join(note["text"] for note in answer["notes"] if note["kind"] == "to_do")
    parts = re.findall(r"residency (convert \S+ (\S+) --to chat)", asked)
    for command, _ in parts:
        assert residency(*command.split()).exit_code == 0
    Path("train.jsonl").write_text("".join(Path(part).read_text() for _, part in parts), encoding="utf-8")
    outcome = residency("train", "imported.yaml", "--set", "eval.probes=0")
    assert outcome.exit_code == 0, outcome.stderr
    assert "18 rows to train on" in outcome.stderr
