"""Pilots on one base, without what a forecast does not need, are the runs they stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from residency import pipeline
from residency.advisor.pilots import measure_subsets, nested, prepare_whole, run_pilots
from residency.config.model import RunConfig
from residency.errors import DataError
from residency.records import EvalResult, RunFolder
from residency.stages.base import Base
from tests.e2e.tiny import rows, write_rows
from tests.integration.process import FULL

LORA = {"kind": "lora", "rank": 4}


@pytest.fixture(params=[LORA, FULL], ids=["lora", "full"])
def proposal(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> dict[str, Any]:
    write_rows(tmp_path / "train.jsonl", rows(32))
    write_rows(tmp_path / "test.jsonl", rows(9, start=100))
    return {
        "model": {"id": str(folder / "model")},
        "data": {"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")},
        "adapter": request.param,
        "train": {"epochs": 2, "batch_size": 4, "learning_rate": 0.01},
        "retention": {"anchors": 4, "answer_tokens": 4},
        "eval": {"graders": [{"type": "string_check"}], "probes": 0, "max_new_tokens": 4},
        "speed": {"precision": "fp32", "threads": 1},
    }


def written(run: dict[str, Any], folder: Path) -> Path:
    path = folder / "run.yaml"
    path.write_text(json.dumps(run))
    return path


def seen(run: RunFolder) -> list[tuple[str, int, float]]:
    """Every loss, and that of the replay."""
    return [(metric.split, metric.step, metric.loss) for metric in run.metrics() if metric.split != "anchors"]


def answers(run: RunFolder) -> list[str]:
    return [answer.output for answer in run.read("eval/test.tuned.json", EvalResult).answers]


def test_a_pilot_is_the_run_on_its_rows(proposal: dict[str, Any], tmp_path: Path) -> None:
    record = RunFolder(tmp_path)
    whole = prepare_whole(written(proposal, tmp_path), record, Base())
    measure_subsets(whole, [(8, 0), (16, 1)], record, Base())
    write_rows(tmp_path / "some.jsonl", rows(16))
    config = RunConfig.model_validate(proposal | {
        "data": proposal["data"] | {"train": str(tmp_path / "some.jsonl"), "eval": None},
        "train": proposal["train"] | {"seed": 1},
    })  # fmt: skip
    alone = pipeline.run(config, tmp_path / "runs")
    pilot = RunFolder(tmp_path / "pilots" / "rows-16-seed-1")
    assert seen(pilot) == seen(alone)
    assert answers(pilot) == answers(alone)


def test_pilots_that_are_measured_are_not_trained_again_unless_the_rows_change(
    proposal: dict[str, Any], tmp_path: Path
) -> None:
    run_file, record = written(proposal, tmp_path), RunFolder(tmp_path)
    before = run_pilots(run_file, record, times=2.0, untuned=0.0)
    assert list(before.shares) == [8, 16, 32]
    trained = [event.kind for event in record.events()].count("pilot")
    assert trained == 4
    assert run_pilots(run_file, record, times=2.0, untuned=0.0) == before
    assert [event.kind for event in record.events()].count("pilot") == trained
    write_rows(tmp_path / "train.jsonl", rows(32, start=50))
    run_pilots(run_file, record, times=2.0, untuned=0.0)
    kinds = [event.kind for event in record.events()]
    assert (kinds.count("pilots_restarted"), kinds.count("pilot")) == (1, 2 * trained)


def test_few_rows_are_refused() -> None:
    with pytest.raises(DataError, match="31 rows are too few"):
        nested(31)
