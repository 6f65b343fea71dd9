"""What `residency import` reads, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from residency.cli import main
from residency.config.load import load_run
from tests.unit.importers.configs import AXOLOTL, imported, refused


def test_the_run_file_says_where_it_comes_from_and_what_is_not_the_same(tmp_path: Path) -> None:
    imported(tmp_path, AXOLOTL + "optimizer: adamw_bnb_8bit\ndeepspeed: zero3.json\n")
    text = (tmp_path / "run.yaml").read_text(encoding="utf-8")
    assert text.startswith("# Imported from theirs.yaml (Axolotl) by `residency import`.")
    assert "#   optimizer: adamw_bnb_8bit becomes AdamW" in text
    assert "#   deepspeed: " in text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no keys"),
        ("- a\n", "holds no keys"),
        ("a: [\n", "is not valid YAML"),
        ("output_dir: out\n", "is no training config of Axolotl (it has no base_model) or LLaMA-Factory"),
        ("model_name_or_path: org/m\ndataset_name: org/d\n", "is no training config of Axolotl"),
        ("model: {id: org/m}\ndata: {train: t.jsonl}\n", "looks like a run file of ours"),
        ("base_model: {a: 1}\ndatasets: 3\nlearning_rate: 1\n", "base_model: is missing"),
    ],
)
def test_what_is_no_config_is_refused_with_a_reason(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in " ".join(refused(tmp_path, text))


def test_aliases_and_merged_keys_are_read(tmp_path: Path) -> None:
    found = imported(tmp_path, f"shared: &shared {{path: org/rows, type: alpaca}}\n{AXOLOTL}test_datasets: [*shared]\n")
    assert found.run["data"]["eval"] == "hub:org/rows"


def test_a_model_that_is_quantised_already_is_to_be_replaced(tmp_path: Path) -> None:
    found = imported(tmp_path, AXOLOTL.replace("org/base", "org/base-AWQ"))
    assert [note.key for note in found.notes if note.kind == "to_do"] == ["base_model"]


def test_the_command_writes_the_run_file_and_says_what_became_of_every_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = tmp_path / "theirs.yaml", tmp_path / "new" / "run.yaml"
    config.write_text(AXOLOTL + "wandb_project: mine\n", encoding="utf-8")
    assert main(["import", str(config), str(out)]) == 0
    said = capsys.readouterr().out
    assert "model.id: org/base" in said
    assert "wandb_project: says where figures go" in said
    assert load_run(out).model.id == "org/base"
    assert main(["import", str(config), str(out)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_programs_get_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "theirs.yaml"
    config.write_text(AXOLOTL, encoding="utf-8")
    assert main(["import", str(config), str(tmp_path / "run.yaml"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["tool"] == "Axolotl"
    assert {"kind", "key", "text"} == answer["notes"][0].keys()
    config.write_text(AXOLOTL + "rl: dpo\n", encoding="utf-8")
    assert main(["import", str(config), str(tmp_path / "other.yaml"), "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "not_importable"
    assert error["problems"]
    assert not (tmp_path / "other.yaml").exists()
