"""Answers that do not go with their questions, as the other rows have it, stand first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import rankdata

from residency.data.audit import embeddings, neighbours, subjects
from residency.data.audit.embeddings import Embedder, load_embedder
from residency.data.audit.misfits import check_fit, described, fit_scores
from residency.data.audit.neighbours import nearest_rows
from residency.data.audit.subjects import answer_fits, check_subjects, read_subjects
from residency.data.audit.table import Table
from tests.unit.data.audit.word_vectors import make_embedder, prompts


def table_with(asked: list[str], answers: list[str], file: str = "train.jsonl") -> Table:
    table = Table()
    for number, (prompt, answer) in enumerate(zip(asked, answers, strict=True)):
        table.files.append(file)
        table.file_lines.append(number + 1)
        table.prompts.append(prompt)
        table.answers.append(answer)
        table.systems.append("")
        table.roles.append("ua")
        table.marked_bad.append(False)
    return table


def talk(rows: int, wrong: int) -> tuple[list[str], list[str]]:
    """Answers about the same thing as their questions, but for the first few."""
    asked, answers = prompts(rows), prompts(rows, seed=7)
    return asked, [*answers[1 : wrong + 1], *answers[wrong:]]


def labels(rows: int, wrong: int) -> tuple[list[str], list[str]]:
    """Answers that share no meaning with their questions, but are the same for like questions."""
    names = ["cook recipe", "wheel road", "fur paw"]
    return prompts(rows), [names[(i + (i < wrong)) % 3] for i in range(rows)]


def scores_of(embedder: Embedder, asked: list[str], answers: list[str]) -> NDArray[np.float64]:
    return fit_scores(described(embedder.embed(asked), asked), described(embedder.embed(answers), answers))


@pytest.mark.parametrize("rows", [talk, labels])
def test_answers_that_do_not_fit_have_the_lowest_scores(tmp_path: Path, rows: object) -> None:
    asked, answers = rows(300, 15)  # type: ignore[operator]
    embedder = make_embedder(tmp_path)
    ranks = rankdata(scores_of(embedder, asked, answers))
    wrong_below_right = 1 - (ranks[:15].sum() - 15 * 8) / (15 * 285)
    assert wrong_below_right > 0.9


def test_style_alone_tells_where_words_mean_nothing(tmp_path: Path) -> None:
    """Every third question wants a list and every third JSON; a few get what another kind is due."""
    forms = ["Yes, with pleasure.", '{"done": true}', "- one\n- two\n- three"]
    asked = prompts(300)
    answers = [forms[(i + (i < 15)) % 3] for i in range(300)]
    scores = scores_of(make_embedder(tmp_path), asked, answers)
    assert scores[:15].max() < np.quantile(scores[15:], 0.05)


def test_the_same_rows_have_the_same_scores(tmp_path: Path) -> None:
    asked, answers = talk(100, 5)
    embedder = make_embedder(tmp_path)
    assert np.array_equal(scores_of(embedder, asked, answers), scores_of(embedder, asked, answers))


def test_each_row_is_judged_by_what_others_say(tmp_path: Path) -> None:
    """Two like questions with the same wrong answer do not make each other right."""
    asked, answers = labels(300, 0)
    wrong = [0, 3]
    for row in wrong:
        answers[row] = "wheel road"
    scores = scores_of(make_embedder(tmp_path), asked, answers)
    assert set(np.argsort(scores)[:2].tolist()) == set(wrong)


def test_neighbours_in_a_sample_serve_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "COMPARED_ROWS", 60)
    near = nearest_rows(make_embedder(tmp_path).embed(prompts(300)))[:, :5]
    assert np.mean(near % 3 == np.arange(300)[:, None] % 3) > 0.95
    assert len(np.unique(near)) <= 60


def test_the_queue_is_a_fifth_of_the_rows_with_the_wrong_ones_first(tmp_path: Path) -> None:
    asked, answers = talk(300, 6)
    (found,) = check_fit(table_with(asked, answers), scores_of(make_embedder(tmp_path), asked, answers))
    assert len(found.rows) == 60
    assert {origin.line for origin in found.rows[:6]} == {1, 2, 3, 4, 5, 6}
    assert found.severity == "note"
    assert found.data["fits"] == sorted(found.data["fits"])


@pytest.fixture
def small_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_embedder(tmp_path / "small_vectors")
    (tmp_path / "small_vectors" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(embeddings, "PACKAGE", "small_vectors")
    load_embedder.cache_clear()


@pytest.mark.usefixtures("small_vectors")
def test_plain_text_has_no_question_and_is_no_misfit() -> None:
    asked, answers = talk(120, 3)
    table = table_with([*asked, *[""] * 30], [*answers, *prompts(30)])
    fits = answer_fits(table)
    assert set(np.argsort(fits)[:3].tolist()) == {0, 1, 2}
    assert not fits[120:].any()
    (found,) = check_fit(table, fits)
    assert max(origin.line for origin in found.rows) <= 120


@pytest.mark.usefixtures("small_vectors")
def test_all_of_stage_2_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    train = table_with(prompts(120, meanings=(0, 1)), prompts(120, meanings=(0, 1), seed=3))
    test = table_with(prompts(4, meanings=(2,)), ["x"] * 4, "test.jsonl")
    found = check_subjects(train, read_subjects(train), test)
    assert [finding.check for finding in found] == ["topics", "misfit_answers", "uncovered_tests"]
    monkeypatch.setattr(subjects, "MOST_ROWS", 110)
    found = check_subjects(train, read_subjects(train))
    assert "110 rows drawn at random" in found[0].message
    assert sum(topic["rows"] for topic in found[0].data["topics"]) == 110
    assert [finding.check for finding in check_subjects(Table(), read_subjects(Table()))] == ["few_rows"]


def test_without_word_vectors_it_says_what_was_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "PACKAGE", "no_such_package_of_vectors")
    table = table_with(["a"] * 100, ["b"] * 100)
    (found,) = check_subjects(table, read_subjects(table))
    assert found.check == "no_word_vectors"
    assert "residency[topics]" in found.message
