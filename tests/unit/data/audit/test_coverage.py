"""Holes against the test prompts, and a part of the data that covers more than chance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from residency.cli import main
from residency.data.audit import embeddings
from residency.data.audit.coverage import check_coverage, select_rows
from residency.data.audit.embeddings import load_embedder, unit
from residency.data.messages import Origin
from tests.unit.data.audit.word_vectors import make_embedder, prompts


def origins(file: str, count: int) -> list[Origin]:
    return [Origin(file, i + 1) for i in range(count)]


def test_test_prompts_unlike_all_training_prompts_are_named_furthest_first(tmp_path: Path) -> None:
    embedder = make_embedder(tmp_path)
    train = embedder.embed(prompts(80, meanings=(0, 1)))
    test = embedder.embed([*prompts(4, meanings=(0, 1), seed=1), *prompts(2, meanings=(2,))])
    (found,) = check_coverage(train, test, origins("train.jsonl", 80), origins("test.jsonl", 6))
    assert {origin.line for origin in found.rows} == {5, 6}
    assert found.data["cosines"] == sorted(found.data["cosines"])
    assert "2 of 6" in found.message


def test_covered_test_prompts_are_no_finding(tmp_path: Path) -> None:
    embedder = make_embedder(tmp_path)
    train, test = embedder.embed(prompts(80)), embedder.embed(prompts(9, seed=1))
    assert check_coverage(train, test, origins("train.jsonl", 80), origins("test.jsonl", 9)) == []


def crowd(rows: int = 2000, seed: int = 0) -> np.ndarray:
    """A few crowded places and many lonely ones."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(40, 16))
    places = np.minimum(random.geometric(0.3, rows) - 1, 39)
    return unit((centres[places] + random.normal(0, 0.2, (rows, 16))).astype(np.float32))


def test_a_selection_covers_the_data_better_than_chance() -> None:
    found = select_rows(crowd(), 40)
    assert len(set(found.rows.tolist())) == 40
    assert found.rows.tolist() == sorted(found.rows.tolist())
    assert found.coverage > found.random_coverage


def test_a_selection_towards_prompts_is_near_to_them_and_gives_each_its_share() -> None:
    vectors = crowd()
    towards = vectors[[3, 700]]
    found = select_rows(vectors, 20, towards)
    assert {3, 700} <= set(found.rows.tolist())
    nearest = np.argsort(-(vectors @ towards.T), axis=0)[:40]
    assert set(found.rows.tolist()) <= set(nearest.ravel().tolist())
    assert found.coverage > found.random_coverage


@pytest.mark.parametrize("towards", [False, True])
def test_asking_for_more_than_there_is_gives_all(towards: bool) -> None:
    vectors = crowd(30)
    found = select_rows(vectors, 100, vectors[:3] if towards else None)
    assert found.rows.tolist() == list(range(30))


def test_the_same_seed_selects_the_same_rows() -> None:
    assert select_rows(crowd(), 30, seed=1).rows.tolist() == select_rows(crowd(), 30, seed=1).rows.tolist()


@pytest.fixture
def small_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command finds the test's own vectors where the package would be."""
    package = tmp_path / "site" / "small_vectors"
    make_embedder(package)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(embeddings, "PACKAGE", "small_vectors")
    load_embedder.cache_clear()


@pytest.mark.usefixtures("small_vectors")
def test_the_command_writes_chosen_rows_unchanged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": prompt, "completion": "ja \N{SNOWMAN}", "id": i} for i, prompt in enumerate(prompts(60))]
    train, out = tmp_path / "train.jsonl", tmp_path / "small.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    wanted = tmp_path / "test.jsonl"
    wanted.write_text(json.dumps({"prompt": "tell me about the bread", "completion": "x"}) + "\n")

    assert main(["select", str(train), "--n", "10", "--towards", str(wanted), "--out", str(out)]) == 0
    assert "rarely beats" in " ".join(capsys.readouterr().out.split())
    chosen = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(chosen) == 10
    assert all(row == rows[row["id"]] for row in chosen)
    assert all(row["id"] % 3 == 1 for row in chosen)

    assert main(["select", str(train), "--n", "10", "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["select", str(train), "--n", "100", "--out", str(tmp_path / "all.jsonl")]) == 0
    assert "60 of 60 rows; 100 were asked for" in capsys.readouterr().out
