"""Six worlds, each with one right advice, whatever the seed."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from residency.advisor.advice import Advice, Hosted, advise
from residency.config.load import load_run
from residency.config.task import Task
from residency.records import RunFolder
from tests.unit.advisor.conftest import Endpoint, says
from tests.unit.advisor.worlds import WORLDS, World, question


def live(endpoint: Endpoint, world: World, folder: Path, model: Path, seed: int) -> Advice:
    """The advice on one world with one seed, which fixes its rows, too."""
    rows = world.rows(random.Random(seed))
    by_question = {question(row): row for row in rows}

    def reply(body: dict[str, object]) -> tuple[int, object]:
        last = body["messages"][-1]["content"]  # type: ignore[index]
        (asked,) = [row for text, row in by_question.items() if last.endswith(text)]
        return 200, says(world.answer(body, asked))

    endpoint.reply = reply
    folder.mkdir()
    path = folder / "examples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = Task.model_validate({
        "name": "world", "model": {"id": str(model)}, "examples": str(path), "graders": world.graders, "seed": seed,
    })  # fmt: skip
    return advise(task, RunFolder(folder), Hosted(endpoint.url, "scripted"))


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("seed", range(5))
def test_each_world_gets_its_advice(name: str, seed: int, endpoint: Endpoint, tmp_path: Path, tiny_model: Path) -> None:
    world = WORLDS[name]
    found = live(endpoint, world, tmp_path / "advice", tiny_model, seed)
    assert found.decision.choice == world.choice, found.decision.reasons
    assert found.decision.resampled.get(world.choice, 0) >= 0.9
    run = tmp_path / "advice" / "run.yaml"
    assert run.exists() == (found.proposal is not None)
    if found.proposal:
        assert load_run(run).data.train == str(tmp_path / "advice" / "train.jsonl")
