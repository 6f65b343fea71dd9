"""Repairs: proposed, made only when wanted, logged, and in the row's own form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from residency.data.audit.audit import audit
from residency.data.audit.fix import proposals, write_fixed
from residency.data.audit.parts import parse_shares, split_by_cluster
from residency.data.audit.table import read_table
from residency.data.split import split_examples
from residency.data.validate import load_examples
from residency.errors import ConfigError, DataError
from tests.unit.data.audit.rows import clean_rows


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(count: int = 60) -> list[dict[str, object]]:
    return [{"prompt": prompt, "completion": answer, "id": i} for i, (prompt, answer) in enumerate(clean_rows(count))]


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def fixed(path: Path, out: Path) -> list[dict[str, object]]:
    found = audit(read_table(str(path)).table)
    write_fixed(str(path), [change for change in proposals(found) if change.wanted], out)
    return read(out)


def test_copies_go_and_one_stays_with_its_weight_in_the_log(tmp_path: Path) -> None:
    rows = pairs()
    source = write(tmp_path / "rows.jsonl", [*rows, rows[3], rows[3]])
    assert fixed(source, tmp_path / "out.jsonl") == rows
    log = read(tmp_path / "out.changes.jsonl")
    assert [(one["row"], one["action"], one["other"]) for one in log] == [
        (f"{source}:61", "drop", f"{source}:4"), (f"{source}:62", "drop", f"{source}:4"),
    ]  # fmt: skip
    assert log[0]["rows"] == 3
    assert log[0]["weight"] == 2.0


def test_private_data_are_masked_and_residue_stripped_in_place(tmp_path: Path) -> None:
    row = {"prompt": "[INST] Whom do I ask? [/INST]", "completion": "Ask eva.berg@gmail.com.", "id": "kept"}
    assert fixed(write(tmp_path / "rows.jsonl", [*pairs(), row]), tmp_path / "out.jsonl")[-1] == {
        "prompt": "Whom do I ask?", "completion": "Ask [EMAIL].", "id": "kept",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "repaired"),
    [
        (
            {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "me@gmail.com</s>"}]},
            {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "[EMAIL]"}]},
        ),
        (
            {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Assistant: I do."}]},
            {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I do."}]},
        ),
        (
            {"instruction": "Who?", "input": "a@gmail.com", "output": "I.", "history": [["b@gmail.com?", "No."]]},
            {"instruction": "Who?", "input": "[EMAIL]", "output": "I.", "history": [["[EMAIL]?", "No."]]},
        ),
    ],
)
def test_every_format_keeps_its_form(row: dict[str, object], repaired: dict[str, object], tmp_path: Path) -> None:
    assert fixed(write(tmp_path / "rows.jsonl", [row]), tmp_path / "out.jsonl") == [repaired]


def test_of_two_that_contradict_a_person_chooses(tmp_path: Path) -> None:
    rows = [*pairs(), {"prompt": "Who rang the bell at noon?", "completion": "It was the baker."},
            {"prompt": "Who rang the bell at noon?", "completion": "Nobody has done so."}]  # fmt: skip
    source = write(tmp_path / "rows.jsonl", rows)
    proposed = proposals(audit(read_table(str(source)).table))
    assert [(change.check, change.wanted) for change in proposed] == [("contradictions", False)]
    assert fixed(source, tmp_path / "out.jsonl") == rows


def test_unusable_rows_are_dropped_with_a_log(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in pairs(5)) + "{broken\n")
    read_rows = read_table(str(source), skip_unusable=True)
    write_fixed(str(source), proposals(audit(read_rows.table), read_rows.unusable), tmp_path / "out.jsonl")
    assert len(read(tmp_path / "out.jsonl")) == 5
    assert read(tmp_path / "out.changes.jsonl")[0]["check"] == "unusable"
    with pytest.raises(DataError, match="1 of 6 rows"):
        read_table(str(source))


def test_no_cluster_crosses_a_split() -> None:
    clusters = np.array([0, 0, 0, 3, 4, 4, 6, 7, 8, 9, 10, 10, 12, 13, 14, 15, 16, 17, 18, 19])
    parts = split_by_cluster(clusters, parse_shares("80/10/10"))
    assert sorted(parts.count(name) for name in ("train", "validation", "test")) == [2, 2, 16]
    for cluster in set(clusters.tolist()):
        assert len({part for part, label in zip(parts, clusters, strict=True) if label == cluster}) == 1
    assert parts == split_by_cluster(clusters, parse_shares("80/10/10"))


@pytest.mark.parametrize("text", ["", "50", "80/10", "0/100", "a/b", "40/30/20/10"])
def test_shares_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--split"):
        parse_shares(text)


def test_held_out_rows_share_no_near_copy_with_training_rows(tmp_path: Path) -> None:
    rows = pairs(100)
    copies = [{**row, "completion": f"{row['completion']} Indeed."} for row in rows]
    source = write(tmp_path / "rows.jsonl", [*rows, *copies])
    examples = load_examples(str(source)).examples
    clusters = audit(read_table(str(source)).table).clusters
    train, held_out = split_examples(examples, 0.2, seed=1, clusters=clusters)
    assert len(held_out) == 40
    assert not {e.fields["id"] for e in train} & {e.fields["id"] for e in held_out}
