from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from residency.config.sweep import Range, load_sweep, run_of
from residency.errors import ConfigError


def write(folder: Path, fields: Any, *, train: Any = None, **data: Any) -> Path:
    run = {"model": {"id": "smollm2-135m"}, "data": {"train": "train.jsonl"} | data, "train": train or {}}
    (folder / "run.yaml").write_text(json.dumps(run))
    (folder / "sweep.yaml").write_text(json.dumps({"run": "run.yaml", "fields": fields}))
    return folder / "sweep.yaml"


def test_a_field_is_a_list_of_choices_or_a_range(tmp_path: Path) -> None:
    fields = {"adapter.rank": [8, 16], "train.learning_rate": {"low": 1e-4, "high": 1e-3, "log": True}}
    sweep = load_sweep(write(tmp_path, fields))
    assert sweep.fields["adapter.rank"] == [8, 16]
    assert sweep.fields["train.learning_rate"] == Range(low=1e-4, high=1e-3, log=True)
    assert sweep.run == str(tmp_path / "run.yaml")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"train.learning_rte": [1]}, "there is no train.learning_rte"),
        ({"adapter.rank": [8, "many"]}, "adapter.rank"),
        ({"adapter.rank": []}, "adapter.rank"),
        ({"train.learning_rate": {"low": 1e-3, "high": 1e-4}}, "low must be less than high"),
        ({"train.learning_rate": ["search"]}, "a sweep tries learning rates itself"),
        ({"train.seed": [0, 1]}, "held out"),
        ({"data.train": ["train.jsonl", "half.jsonl"]}, "held out"),
        ({"data.eval": ["10%", "20%"]}, "same held-out rows"),
        ({"retention.replay": [True, False]}, "makes no difference between trials"),
    ],
)
def test_what_cannot_be_compared_or_is_no_field_is_said_before_anything_runs(
    fields: Any, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_sweep(write(tmp_path, fields))
    assert said in str(caught.value)


def test_a_run_file_with_a_search_may_be_swept_over_learning_rates_and_over_nothing_else(tmp_path: Path) -> None:
    search = {"learning_rate": "search"}
    assert load_sweep(write(tmp_path, {"train.learning_rate": [1e-4, 1e-3]}, train=search))
    with pytest.raises(ConfigError, match="tries learning rates itself"):
        load_sweep(write(tmp_path, {"adapter.rank": [8, 16]}, train=search))


def test_seeds_and_data_may_vary_where_the_held_out_rows_are_a_file(tmp_path: Path) -> None:
    (tmp_path / "eval.jsonl").write_text("")
    assert load_sweep(write(tmp_path, {"train.seed": [0, 1], "data.train": ["a", "b"]}, eval="eval.jsonl"))


def test_paths_in_fields_are_meant_from_the_run_files_folder_as_its_own(tmp_path: Path) -> None:
    (tmp_path / "eval.jsonl").write_text("")
    sweep = load_sweep(write(tmp_path, {"data.train": ["half.jsonl", "all.jsonl"]}, eval="eval.jsonl"))
    assert run_of(sweep, {"data.train": "half.jsonl"}).data.train == str(tmp_path / "half.jsonl")
