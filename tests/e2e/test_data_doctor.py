"""`check`, its repairs, and `convert`, as a person uses them on a file of their own."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import residency
from tests.unit.data.audit.rows import clean_rows

QUESTION = "Who wrote the novel about the white whale?"
DEFECTS = [
    ("Log in with ghp_16C7e42F292c6912E7710c838347Ae178B4a please.", "Done, you are in now."),
    ("[INST] Which colour has the sea? [/INST]", "The sea is blue today.</s>"),
    (QUESTION, "That was Herman Melville, in 1851."),
    (f"Please tell me {QUESTION.lower()}", "Jane Austen published this book herself."),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, rows: list[tuple[str, str]], *more: str) -> None:
    lines = [json.dumps({"prompt": prompt, "completion": answer}) for prompt, answer in rows]
    Path(name).write_text("".join(f"{line}\n" for line in [*lines, *more]))


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def test_check_says_what_is_wrong_and_shows_the_rows_without_their_secrets() -> None:
    write("rows.jsonl", [*clean_rows(50), *DEFECTS])
    outcome = residency("check", "rows.jsonl")
    assert outcome.exit_code == 0, outcome.stderr
    assert "secrets (-5.6 points): Keys, tokens or passwords in 1 row (1.9%)." in outcome.stdout
    assert "rows.jsonl:51: Log in with [SECRET] please. -> Done, you are in now." in outcome.stdout
    assert "rows.jsonl:54: Please tell me" in outcome.stdout
    assert "against rows.jsonl:53: Who wrote the novel" in outcome.stdout
    assert "ghp_" not in outcome.stdout
    assert residency("check", "rows.jsonl", "--strict").exit_code == 3


def test_fix_repairs_into_a_new_file_and_leaves_contradictions_to_a_person() -> None:
    write("rows.jsonl", [*clean_rows(50), *DEFECTS], "{broken")
    outcome = residency("check", "rows.jsonl", "--fix", "clean.jsonl")
    assert outcome.exit_code == 0, outcome.stderr
    assert "error: unusable" in outcome.stdout
    assert "changes: mask (secrets): 1 row, strip (residue): 1 row, drop (unusable): 1 row; each" in outcome.stdout
    assert "left as they are: rows that contradict another, 1" in outcome.stdout
    rows = read("clean.jsonl")
    assert len(rows) == 54
    assert rows[50]["prompt"] == "Log in with [SECRET] please."
    assert rows[51] == {"prompt": "Which colour has the sea?", "completion": "The sea is blue today."}
    assert [change["action"] for change in read("clean.changes.jsonl")] == ["mask", "strip", "drop"]
    assert read("clean.changes.jsonl")[-1]["reason"].startswith("is not valid JSON")


def test_a_file_that_is_there_is_named_and_left_alone() -> None:
    write("rows.jsonl", clean_rows(50))
    Path("clean.test.jsonl").write_text("mine")
    outcome = residency("check", "rows.jsonl", "--fix", "clean.jsonl")
    assert (outcome.exit_code, "clean.test.jsonl exists already" in outcome.stderr) == (2, True)
    assert Path("clean.test.jsonl").read_text() == "mine"


def test_where_no_row_can_be_used_leaving_them_out_is_no_way_round() -> None:
    write("rows.jsonl", [], "{broken", "{more")
    outcome = residency("check", "rows.jsonl", "--fix", "clean.jsonl")
    assert outcome.exit_code == 3
    assert "hint: correct these rows; nothing is dropped unasked" in outcome.stderr


def test_nothing_is_changed_that_a_reviewer_refuses() -> None:
    write("rows.jsonl", [*clean_rows(50), *DEFECTS])
    outcome = residency("check", "rows.jsonl", "--fix", "clean.jsonl", "--review", stdin=b"n\ny\nother\n")
    assert outcome.exit_code == 0, outcome.stderr
    rows = read("clean.jsonl")
    assert "ghp_" in rows[50]["prompt"]
    assert rows[51]["completion"] == "The sea is blue today."
    assert [row["completion"] for row in rows[52:]] == ["Jane Austen published this book herself."]


def test_after_a_split_no_near_copy_of_a_test_row_is_left_in_the_training_data() -> None:
    """A reviewer keeps all copies, so that they have to be kept apart from the other side."""
    write("rows.jsonl", with_near_copies())
    assert residency("check", "rows.jsonl", "--fix", "kept.jsonl", "--split", "70/30", "--review",
                     stdin=b"none\n").exit_code == 0  # fmt: skip
    assert len(read("kept.train.jsonl")) + len(read("kept.test.jsonl")) == len(with_near_copies())
    found = residency("check", "kept.train.jsonl", "--test", "kept.test.jsonl", "--json").json["audit"]["findings"]
    assert "near_duplicates" in {finding["check"] for finding in found}, "copies were planted"
    assert "leaks" not in {finding["check"] for finding in found}


def with_near_copies() -> list[tuple[str, str]]:
    """Stories, half of them told twice with a word more, a quarter told differently; no two stories are alike."""
    words = [f"{a}{b}{c}" for a in "bdfklm" for b in "aeiou" for c in ("ra", "ne", "sto", "li", "pun")]
    draw = random.Random(0)
    stories = [" ".join(draw.sample(words, 24)) for _ in range(80)]
    rows = [(f"Retell: {story}.", f"It goes {story}.") for story in stories]
    again = [(f"{prompt} today", answer) for prompt, answer in rows[:40]]
    differently = [(prompt, answer[::-1]) for prompt, answer in rows[40:60]]
    return rows + again + differently


def test_convert_and_back_gives_the_same_rows() -> None:
    write("rows.jsonl", clean_rows(5))
    for source, target, form in (("rows.jsonl", "chat.jsonl", "chat"), ("chat.jsonl", "shared.jsonl", "sharegpt"),
                                 ("shared.jsonl", "back.jsonl", "prompt_completion")):  # fmt: skip
        assert residency("convert", source, target, "--to", form).exit_code == 0
    assert read("back.jsonl") == read("rows.jsonl")
    assert residency("convert", "rows.jsonl", "back.jsonl", "--to", "chat").exit_code == 2


def test_rows_of_a_finding_go_only_where_it_is_named() -> None:
    write("rows.jsonl", [*clean_rows(50), *DEFECTS])
    outcome = residency("check", "rows.jsonl", "--fix", "clean.jsonl", "--drop", "contradictions")
    assert outcome.exit_code == 0, outcome.stderr
    assert [row["completion"] for row in read("clean.jsonl")[52:]] == ["That was Herman Melville, in 1851."]
    refused = residency("check", "rows.jsonl", "--fix", "other.jsonl", "--drop", "leaks=5%")
    assert refused.exit_code == 2
    assert "those with rows are" in refused.stderr
