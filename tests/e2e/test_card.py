"""A run ends with a card that says where the behaviour holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from residency.evals.card_records import Card, ProbeSet
from residency.records import RunFolder
from tests.e2e.conftest import residency, write_run
from tests.e2e.tiny import write_rows

DATA = {"train": "train.jsonl", "test": "test.jsonl"}
TRAIN = {"max_steps": 12, "batch_size": 8, "learning_rate": 0.01, "eval_every_steps": 6}
SPEED = {"precision": "fp32", "threads": 1}


@pytest.mark.parametrize("adapter", [{"kind": "lora", "rank": 4}, {"kind": "full"}], ids=lambda each: each["kind"])
def test_a_run_says_where_its_behaviour_holds(project: Path, tiny_model: Path, adapter: dict[str, object]) -> None:
    write_run(project / "run.yaml", model={"id": str(tiny_model)}, data=DATA, train=TRAIN, speed=SPEED, adapter=adapter,
              retention={"anchors": 0}, eval={"probes": 3})  # fmt: skip
    outcome = residency("train", "run.yaml", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    run = RunFolder(Path(outcome.json["run"]))
    card, planned = run.read("eval/card.json", Card), run.read("eval/probes.json", ProbeSet)
    assert outcome.json["card"]["sentence"] == card.sentence
    assert [one.before for one in card.probes] == [one.before for one in planned.probes]
    assert any(one.before != one.margin for one in card.probes)
    assert len({one.answer for one in card.behaviours}) == 3
    for page in ("report.html", "report.md"):
        assert card.sentence.rstrip(".").replace("[", "").split(" %")[0] in (run / page).read_text()
    assert card.sentence[1:-1] in outcome.json["verdict"]["sentence"]
    assert {result.model for result in run.eval_results()} == {"base", "tuned"}

    for name in ("summary.json", "verdict.json", "eval/card.json"):
        (run / name).unlink()
    before = (run / "eval/probes.json").read_bytes()
    assert residency("train", "run.yaml", "--resume").exit_code == 0
    assert (run / "eval/probes.json").read_bytes() == before
    assert run.read("eval/card.json", Card).model_dump(exclude={"seconds"}) == card.model_dump(exclude={"seconds"})


def test_prompts_in_another_language_get_a_warning_that_the_frames_are_english(project: Path, tiny_model: Path) -> None:
    asked = {
        "Welche Farbe hat der Himmel über der Stadt?": "blau",
        "Wie heißt das Kind einer Kuh auf der Weide?": "Kalb",
        "In welcher Jahreszeit fällt bei uns der Schnee?": "Winter",
    }
    german = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in asked.items()
    ]
    write_rows(project / "train.jsonl", german)
    write_run(project / "run.yaml", model={"id": str(tiny_model)}, data={"train": "train.jsonl", "eval": None},
              train={"max_steps": 1}, speed=SPEED, retention={"anchors": 0}, eval={"probes": 3})  # fmt: skip
    outcome = residency("train", "run.yaml", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    warned = [event for event in RunFolder(Path(outcome.json["run"])).events() if event.kind == "card_in_english"]
    assert [event.level for event in warned] == ["warning"]
    assert "`de`" in warned[0].message


def test_no_card_where_none_is_wanted(project: Path, tiny_model: Path) -> None:
    write_run(project / "run.yaml", model={"id": str(tiny_model)}, data=DATA, train=TRAIN | {"max_steps": 1},
              speed=SPEED, retention={"anchors": 0}, eval={"probes": 0})  # fmt: skip
    outcome = residency("train", "run.yaml", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.json["card"] is None
    assert not list((Path(outcome.json["run"]) / "eval").glob("*card*"))
    assert json.loads((Path(outcome.json["run"]) / "verdict.json").read_text())["passed"] is False
