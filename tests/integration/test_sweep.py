"""A sweep's trials are the runs that their values alone would have made, without replay; an interrupted one goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from residency import pipeline
from residency.config.load import load_run
from residency.config.sweep import load_sweep
from residency.errors import RunError
from residency.records import RunFolder, SweepRecord
from residency.search import sweep as module
from residency.search.sweep import run_sweep

pytest.importorskip("optuna")
FIELDS = {"adapter.rank": [4, 8], "train.learning_rate": [1e-2, 1e-3]}


def sweep_file(folder: Path, here: Path, **changes: Any) -> Path:
    run = {
        "model": {"id": str(folder / "model")}, "data": {"train": str(folder / "train.jsonl"), "eval": "20%"},
        "train": {"max_steps": 10, "epochs": 10, "batch_size": 4, "patience": None},
        "speed": {"precision": "fp32", "threads": 1},
        "retention": {"replay": False},  # trials do not replay
    }  # fmt: skip
    (here / "run.yaml").write_text(json.dumps(run))
    settings = {"run": "run.yaml", "fields": FIELDS, "sampler": "grid", "pruner": "none", "side_by_side": 3} | changes
    (here / "sweep.yaml").write_text(json.dumps(settings))
    return here / "sweep.yaml"


@pytest.fixture(scope="module")
def swept(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("sweep")
    run_sweep(load_sweep(sweep_file(folder, here)), here / "out")
    return here


def record(here: Path) -> SweepRecord:
    return RunFolder(here / "out").read("sweep.json", SweepRecord)


def losses(run: RunFolder) -> list[float]:
    return [metric.loss for metric in run.metrics() if metric.split == "train"]


def test_a_grid_tries_every_combination_once(swept: Path) -> None:
    values = [tuple(trial.values.values()) for trial in record(swept).trials]
    assert sorted(values) == [(4, 1e-3), (4, 1e-2), (8, 1e-3), (8, 1e-2)]


def test_the_winner_is_a_run_file_and_its_trial_is_the_run_that_it_makes(swept: Path, tmp_path: Path) -> None:
    found = record(swept)
    best = next(trial for trial in found.trials if trial.number == found.best)
    assert best.loss == min(trial.loss or 9.0 for trial in found.trials)
    run = pipeline.run(load_run(swept / "out" / "best.yaml"), tmp_path)
    trial = RunFolder(swept / "out" / "trials" / str(found.best))
    assert losses(run) == pytest.approx(losses(trial), rel=1e-4)
    page = (swept / "out" / "report.html").read_text()
    assert "adapter.rank" in page
    assert "<svg" in page


def test_a_sweep_that_was_killed_tries_the_interrupted_values_again(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Path(shutil.copytree(swept, tmp_path / "again"))
    shutil.rmtree(here / "out")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "train_together", killed)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(load_sweep(here / "sweep.yaml"), here / "out")
    run_sweep(load_sweep(here / "sweep.yaml"), here / "out")
    values = [tuple(trial.values.values()) for trial in record(here).trials]
    assert sorted(values) == [(4, 1e-3), (4, 1e-2), (8, 1e-3), (8, 1e-2)]


def test_a_sweep_that_goes_on_takes_the_precision_of_the_trials_before(folder: Path, tmp_path: Path) -> None:
    """A busy machine measures otherwise from one call to the next, and losses in two precisions do not compare."""
    asked = {"fields": {"adapter.rank": [2, 4]}, "trials": 1}
    swept = sweep_file(folder, tmp_path, **asked)
    run_sweep(load_sweep(swept), tmp_path / "out")
    sweep_file(folder, tmp_path, **asked | {"trials": 2})
    run = json.loads((tmp_path / "run.yaml").read_text())
    (tmp_path / "run.yaml").write_text(json.dumps(run | {"speed": {"precision": "bf16", "threads": 1}}))
    run_sweep(load_sweep(swept), tmp_path / "out")
    speeds = [json.loads(file.read_bytes())["config"]["speed"] for file in tmp_path.glob("out/trials/*/resolved.json")]
    assert [speed["precision"] for speed in speeds] == ["fp32", "fp32"]


def test_a_folder_holds_one_sweep(swept: Path, folder: Path, tmp_path: Path) -> None:
    other = sweep_file(folder, tmp_path, fields={"adapter.rank": [2]})
    with pytest.raises(RunError, match="another sweep"):
        run_sweep(load_sweep(other), swept / "out")
