"""Three worlds in which the starter model's right advice is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.science import worlds
from residency.advisor.advice import advise
from residency.config.task import Task
from residency.records import RunFolder


@pytest.mark.starter
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("make", "graders", "choice"),
    [
        (worlds.smart_home, worlds.JSON, "fine-tune"),
        (worlds.capitals, worlds.CONTAINS, "retrieval"),
        (worlds.products, worlds.EXACT, "rethink"),
    ],
    ids=["smart-home", "capitals", "products"],
)
def test_the_starter_model_gets_the_right_advice(
    make: Callable[[int, int], list[dict[str, Any]]], graders: list[dict[str, Any]], choice: str, tmp_path: Path
) -> None:
    examples = worlds.write(tmp_path / "examples.jsonl", make(200, 0))
    task = Task.model_validate({"name": "world", "examples": str(examples), "graders": graders})
    assert advise(task, RunFolder(tmp_path)).decision.choice == choice
