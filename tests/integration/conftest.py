from __future__ import annotations

from pathlib import Path

import pytest

from residency.records import RunFolder
from tests.e2e.tiny import make_model_folder, rows, write_rows
from tests.integration.process import configure, train


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its data."""
    path = tmp_path_factory.mktemp("survival")
    make_model_folder(path / "model")
    write_rows(path / "train.jsonl", rows(30))
    return path


@pytest.fixture(scope="session")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The LoRA run with dropout that nothing happened to."""
    runs = tmp_path_factory.mktemp("undisturbed")
    assert train(configure(folder), runs) == 0
    return RunFolder(runs / "run")
