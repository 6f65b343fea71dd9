"""The demo's data: what the README of the example promises of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "examples" / "smart-home" / "make_data.py"
ROWS = {"train": 1500, "eval": 100, "test": 150, "test-unseen-wordings": 150}


def run_recipe(out: Path, hash_seed: str) -> Path:
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    command = [sys.executable, str(RECIPE), "--out", str(out)]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_recipe(tmp_path_factory.mktemp("smart-home"), hash_seed="0")


def read(data: Path, name: str) -> list[tuple[str, dict[str, object]]]:
    rows = [json.loads(line)["messages"] for line in (data / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(user["content"], json.loads(assistant["content"])) for _, user, assistant in rows]


def test_every_file_has_its_rows_balanced_over_fourteen_intents(data: Path) -> None:
    for name, count in ROWS.items():
        intents = Counter(answer["intent"] for _, answer in read(data, name))
        assert intents.total() == count
        assert len(intents) == 14
        assert max(intents.values()) - min(intents.values()) <= 1


def test_no_sentence_occurs_twice(data: Path) -> None:
    sentences = [re.sub(r"\W+", " ", s).strip().casefold() for name in ROWS for s, _ in read(data, name)]
    assert len(set(sentences)) == len(sentences) == sum(ROWS.values())


def test_what_an_answer_names_stands_in_the_sentence(data: Path) -> None:
    for name in ROWS:
        for sentence, answer in read(data, name):
            for slot in ("name", "area", "floor", "conversation_command"):
                assert str(answer.get(slot, "")) in sentence


@pytest.mark.slow
def test_the_recipe_writes_the_same_bytes_again(data: Path, tmp_path: Path) -> None:
    again = run_recipe(tmp_path, hash_seed="1234")
    for name in ROWS:
        assert (again / f"{name}.jsonl").read_bytes() == (data / f"{name}.jsonl").read_bytes()
