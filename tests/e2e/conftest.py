"""The command line as a function, a tiny model, and one finished run."""

from __future__ import annotations

import io
import json
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from residency.cli import main
from tests.e2e.tiny import make_model_folder, rows, write_rows


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON value and nothing else."""
        return json.loads(self.stdout)


def residency(*arguments: str | Path, stdin: bytes = b"") -> Outcome:
    """`residency ...` in this process: starting Python and torch takes seconds each time."""
    stdout, stderr, before = io.StringIO(), io.StringIO(), sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    try:
        with redirect_stdout(stdout), redirect_stderr(stderr):
            exit_code = main([str(argument) for argument in arguments])
    finally:
        sys.stdin = before
    return Outcome(exit_code, stdout.getvalue(), stderr.getvalue())


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: a test that spoils it copies it first."""
    return make_model_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with train.jsonl, test.jsonl and a run.yaml of two keys."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "train.jsonl", rows(60))
    write_rows(tmp_path / "test.jsonl", rows(12, start=100))
    write_run(tmp_path / "run.yaml", model={"id": str(tiny_model)}, data={"train": "train.jsonl"})
    return tmp_path


def write_run(path: Path, **sections: Any) -> Path:
    """JSON is YAML."""
    path.write_text(json.dumps(sections), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with data, run.yaml and the finished run `runs/colors`."""
    folder = tmp_path_factory.mktemp("trained")
    write_rows(folder / "train.jsonl", rows(60))
    write_rows(folder / "test.jsonl", rows(12, start=100))
    write_run(
        folder / "run.yaml",
        name="colors",
        model={"id": str(tiny_model)},
        data={"train": "train.jsonl", "test": "test.jsonl"},
        train={"max_steps": 20, "learning_rate": 0.01},
        speed={"precision": "fp32"},
    )
    outcome = residency("train", str(folder / "run.yaml"), "--runs", str(folder / "runs"))
    assert outcome.exit_code == 0, outcome.stderr
    return folder


@pytest.fixture
def finished(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run `colors` that a test may spoil; the current folder holds `runs`."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained / "runs" / "colors", tmp_path / "runs" / "colors"))
