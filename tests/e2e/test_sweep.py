from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import residency, write_run

pytest.importorskip("optuna")


def test_a_sweep_ends_with_a_table_and_a_run_file_that_can_be_trained(project: Path, tiny_model: Path) -> None:
    write_run(
        project / "run.yaml", model={"id": str(tiny_model)}, data={"train": "train.jsonl"}, train={"max_steps": 4},
        speed={"precision": "fp32"},
    )  # fmt: skip
    asked = {"run": "run.yaml", "fields": {"train.learning_rate": [1e-3, 1e-2]}, "sampler": "grid", "trials": 2}
    (project / "sweep.yaml").write_text(json.dumps(asked))
    outcome = residency("sweep", "sweep.yaml", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    assert len(outcome.json["trials"]) == 2
    again = residency("sweep", "sweep.yaml")
    assert again.exit_code == 0
    assert "best: trial" in again.stdout
    assert residency("check", "sweeps/sweep/best.yaml").exit_code == 0


def test_a_field_that_a_run_file_does_not_have_is_named(project: Path) -> None:
    (project / "sweep.yaml").write_text(json.dumps({"run": "run.yaml", "fields": {"train.rate": [1]}}))
    outcome = residency("sweep", "sweep.yaml")
    assert outcome.exit_code == 2
    assert "there is no train.rate" in outcome.stderr
