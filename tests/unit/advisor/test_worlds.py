"""Six worlds, each with one right advice, whatever the seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from residency.advisor.advice import Hosted, advise, graders_of, load_task_examples
from residency.advisor.decide import decide
from residency.advisor.notebook import Notebook, Question, read_messages
from residency.advisor.page import page
from residency.advisor.probe import Probe, split
from residency.config.load import load_run
from residency.config.task import Task
from residency.evals.run import Completion
from residency.records import RunFolder
from tests.unit.advisor.conftest import Endpoint, says
from tests.unit.advisor.worlds import WORLDS, World, question

Body = dict[str, Any]


def scripted(world: World, rows: list[dict[str, Any]]) -> Callable[[Body], str]:
    """The world's model: finds the row that a request ends with, and answers."""

    def answer(body: Body) -> str:
        last = body["messages"][-1]["content"]
        (about,) = [row for row in rows if last.endswith(question(row))]
        return world.answer(body, about)

    return answer


def task_of(world: World, rows: list[dict[str, Any]], folder: Path, **more: Any) -> Task:
    path = folder / "examples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Task.model_validate({"name": "world", "examples": str(path), "graders": world.graders, **more})


@pytest.mark.parametrize("name", WORLDS)
def test_each_world_gets_its_advice(name: str, endpoint: Endpoint, tmp_path: Path, tiny_model: Path) -> None:
    """Over HTTP, from the examples to the proposed run."""
    world = WORLDS[name]
    rows = world.rows(random.Random(0))
    answer = scripted(world, rows)
    endpoint.reply = lambda body: (200, says(answer(body)))
    task = task_of(world, rows, tmp_path, model={"id": str(tiny_model)})
    found = advise(task, RunFolder(tmp_path), Hosted(endpoint.url, "scripted"))
    assert found.decision.choice == world.choice, found.decision.reasons
    assert (tmp_path / "run.yaml").exists() == (found.proposal is not None)
    if found.proposal:
        assert load_run(tmp_path / "run.yaml").data.train == str(tmp_path / "train.jsonl")
        assert found.proposal.seconds is not None


def test_the_page_says_at_which_temperature_was_really_asked(
    endpoint: Endpoint, tmp_path: Path, tiny_model: Path
) -> None:
    """A model that reasons takes none; what it answered before a stop is known to have been without one, too."""
    world = WORLDS["reinforcement"]
    rows = world.rows(random.Random(0))
    answer = scripted(world, rows)
    task = task_of(world, rows, tmp_path, model={"id": str(tiny_model)})

    def of(model: str) -> str:
        return page(advise(task, RunFolder(tmp_path), Hosted(endpoint.url, model)))

    def reply(body: Body) -> tuple[int, Any]:
        return 200, says(answer({"temperature": 0.8 if "seed" in body else 0.0, **body}))

    endpoint.reply = reply
    assert "one of 8 tries at T = 0.8 |" in of("scripted")
    endpoint.reply = lambda body: (400, {"error": "no temperature"}) if "temperature" in body else reply(body)
    for _ in range(2):
        said = of("reasoning")
        assert "one of 8 tries at the model's own temperature |" in said
        assert "takes no temperature" in said
        assert "T = 0.8" not in said


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("seed", range(1, 5))
def test_the_advice_does_not_depend_on_the_seed(name: str, seed: int, tmp_path: Path) -> None:
    """Other rows, another split, other worked examples, other samples."""
    world = WORLDS[name]
    rows = world.rows(random.Random(seed))
    answer = scripted(world, rows)

    def ask(questions: Sequence[Question]) -> Iterator[tuple[int, Completion]]:
        for position, asked in enumerate(questions):
            body = {"messages": read_messages(asked.messages), "temperature": asked.temperature, "seed": asked.sample}
            yield position, Completion(answer(body), True, 3)

    task = task_of(world, rows, tmp_path, seed=seed)
    examples = load_task_examples(task)
    graders, _ = graders_of(task, examples)
    notebook = Notebook(tmp_path / "answers.jsonl", {"model": "scripted"}, ask)
    decision = decide(Probe(task, graders, split(examples, seed), notebook, lambda kind, text: None).run(), seed)
    assert decision.choice == world.choice, decision.reasons
    assert decision.resampled[world.choice] >= 0.9
