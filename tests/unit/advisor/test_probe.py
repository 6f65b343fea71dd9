"""How a task is split and asked about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from residency.advisor.notebook import Notebook, Question
from residency.advisor.probe import Probe, split
from residency.advisor.prompts import Prompt, conversation, prompts
from residency.config.graders import StringCheck
from residency.config.task import Task, load_task
from residency.data.messages import Example, Message, Origin
from residency.errors import ConfigError, DataError
from residency.evals.run import Completion


def example(number: int, system: str | None = None, question: str = "question") -> Example:
    head = [Message(role="system", content=system)] if system else []
    turns = [
        Message(role="user", content=f"{question} {number}"),
        Message(role="assistant", content=f"answer {number}"),
    ]
    return Example(Origin("rows.jsonl", number + 1), (*head, *turns), fields={"context": f"about {number}"})


@pytest.mark.parametrize(
    ("count", "train", "dev", "test"), [(24, 6, 6, 12), (100, 25, 25, 50), (200, 50, 50, 100), (2000, 1600, 100, 300)]
)
def test_the_test_has_a_hundred_rows_where_there_are_enough(count: int, train: int, dev: int, test: int) -> None:
    parts = split([example(number) for number in range(count)], seed=0)
    assert (len(parts.train), len(parts.dev), len(parts.test)) == (train, dev, test)


def test_rows_with_one_prompt_stay_on_one_side() -> None:
    parts = split([example(number % 40) for number in range(200)], seed=0)
    sides = [{row.reference for row in side} for side in (parts.train, parts.dev, parts.test)]
    assert not sides[0] & sides[1]
    assert not sides[2] & (sides[0] | sides[1])


def test_seven_prompts_are_tried_and_the_users_own() -> None:
    found = prompts([example(number) for number in range(20)], ["Be brief."], seed=0)
    assert [prompt.name for prompt in found] == [
        "zero-shot", "your instruction 1", "answer only", "step by step", "form described", "form shown", "4-shot",
        "8-shot",
    ]  # fmt: skip


def test_a_conversation_has_its_instruction_its_examples_and_its_context_in_place() -> None:
    prompt = Prompt("mine", "Be brief.", shots=(example(1, "You are kind."),))
    turns = conversation(example(2, "You are kind."), prompt, "context")
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[0]["content"] == "You are kind.\n\nBe brief."
    assert turns[1]["content"] == "Answer with the help of this text:\nabout 1\n\nquestion 1"
    assert turns[3]["content"] == "Answer with the help of this text:\nabout 2\n\nquestion 2"
    plain = conversation(example(2), Prompt("mine", "Be brief."))
    assert [turn["content"] for turn in plain] == ["Be brief.\n\nquestion 2"]


def yes(questions: Sequence[Question]) -> Iterator[tuple[int, Completion]]:
    yield from ((position, Completion("yes", True, 1)) for position in range(len(questions)))


def test_a_prompt_that_the_context_does_not_hold_is_left_out_and_said(tmp_path: Path) -> None:
    rows = [example(number) for number in range(60)]
    said: list[str] = []
    notebook = Notebook(tmp_path / "answers.jsonl", {}, yes)

    def probe(longest: int) -> Probe:
        return Probe(
            Task(examples="x"), [StringCheck()], split(rows, 0), notebook, say=lambda kind, text: said.append(text),
            fits=lambda question: len(question.messages) <= longest,
        )  # fmt: skip

    ranked = probe(9).run().prompts
    assert {score.name for score in ranked if score.few_shot} == {"4-shot"}
    assert said[0] == "not tried, for the model's context does not hold them: 8-shot"
    with pytest.raises(DataError, match="context does not hold rows"):
        probe(0).run()


def test_a_task_file_names_its_examples_from_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text("examples: rows.jsonl\nmodel: {id: org/name}\n", encoding="utf-8")
    task = load_task(str(tmp_path / "task.yaml"), ["target=0.5", "graders=[{type: json_match}]"], model="other/name")
    assert (task.examples, task.model.id, task.target) == (str(tmp_path / "rows.jsonl"), "other/name", 0.5)
    lone = load_task(str(tmp_path / "my rows.jsonl"))
    assert (lone.name, lone.model.id) == ("my-rows", "smollm2-135m")
    with pytest.raises(ConfigError, match="2 problems"):
        load_task(str(tmp_path / "task.yaml"), ["target=2", "modle.id=x"])
