"""`residency compare` between a run, its checkpoint, its base and a plain model."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.conftest import residency


def test_a_run_against_its_base_and_itself(finished: Path) -> None:
    found = residency("compare", "colors:base", "colors", "--json").json
    assert found["comparisons"][0]["comparison"]["test"] == "test"
    assert found["forgetting"] is None
    same = residency("compare", "colors", "colors", "--json").json
    assert same["comparisons"][0]["comparison"]["gain"]["value"] == 0
    assert same["forgetting"]["value"] == 0
    text = residency("compare", "colors", "colors").stdout
    assert "no difference could be shown" in text


def test_a_checkpoint_and_a_model_answer_a_test_file(finished: Path, trained: Path, tiny_model: Path) -> None:
    steps = sorted(int(path.name.split("-")[1]) for path in (finished / "checkpoints").glob("step-*"))
    test = str(trained / "test.jsonl")
    found = residency("compare", f"colors@{steps[-1]}", "colors", test, "--json")
    assert found.exit_code == 0, found.stderr
    plain = residency("compare", str(tiny_model), "colors:base", test, "--json")
    assert plain.exit_code == 0, plain.stderr
    assert plain.json["comparisons"][0]["comparison"]["gain"]["value"] == 0


def test_what_cannot_be_compared_is_named(finished: Path, tiny_model: Path, trained: Path) -> None:
    unknown = residency("compare", "colors", str(tiny_model)).stderr
    assert "is no run in" in unknown
    assert "runs there: colors" in unknown
    assert "answered there: base, tuned" in residency("compare", "colors", "colors:other").stderr
    assert (
        "no checkpoint of step 999" in residency("compare", "colors@999", "colors", str(trained / "test.jsonl")).stderr
    )
    assert "neither" in residency("compare", "a", "b", str(trained / "test.jsonl")).stderr
