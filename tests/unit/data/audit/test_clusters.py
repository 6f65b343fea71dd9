"""Topics are found, named by their words and shown with their rows; mixed style inside one is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from residency.data.audit import clusters
from residency.data.audit.clusters import Topics, check_topics, find_topics, map_points, spherical_k_means, subjects
from residency.data.audit.embeddings import unit
from residency.data.audit.table import Table, table_of
from residency.data.messages import Example, Origin
from tests.unit.data.audit.word_vectors import MEANINGS, make_embedder, prompts


def table_with(asked: list[str], answers: list[str]) -> Table:
    return table_of(
        Example(
            Origin("train.jsonl", i + 1),
            ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer}),
        )
        for i, (prompt, answer) in enumerate(zip(asked, answers, strict=True))
    )


def topics_of(folder: Path, table: Table) -> Topics:
    return find_topics(table, make_embedder(folder).embed(subjects(table)))


def test_each_topic_holds_rows_of_one_meaning_and_is_named_by_its_words(tmp_path: Path) -> None:
    table = table_with(prompts(90), ["Fine."] * 90)
    found = topics_of(tmp_path, table)
    assert sum(topic.share for topic in found.topics) == pytest.approx(1)
    assert [topic.share for topic in found.topics] == sorted((t.share for t in found.topics), reverse=True)
    for number, topic in enumerate(found.topics):
        meanings = {int(row) % 3 for row in topic.rows}
        assert len(meanings) == 1
        assert set(topic.name.split(", ")) <= set(MEANINGS[meanings.pop()])
        assert (found.of_row[topic.rows] == number).all()


def test_the_same_data_give_the_same_topics(tmp_path: Path) -> None:
    table = table_with(prompts(60), ["Fine."] * 60)
    once, again = topics_of(tmp_path, table), topics_of(tmp_path, table)
    assert once.of_row.tolist() == again.of_row.tolist()
    assert np.array_equal(once.positions, again.positions)


def test_one_row_and_rows_that_are_all_alike_are_one_topic(tmp_path: Path) -> None:
    assert len(topics_of(tmp_path, table_with(["cat"], ["Yes."])).topics) == 1
    assert len(topics_of(tmp_path, table_with(["cat"] * 50, ["Yes."] * 50)).topics) == 1
    assert len(topics_of(tmp_path, table_with([""] * 5, ["Yes."] * 5)).topics) >= 1


def test_plain_text_is_its_own_subject(tmp_path: Path) -> None:
    table = table_of(Example(Origin("a.txt", i), text=text) for i, text in enumerate(prompts(30)))
    words = {word for group in MEANINGS for word in group}
    assert {topic.name.split(", ")[0] for topic in topics_of(tmp_path, table).topics} <= words


def test_a_topic_of_mixed_style_is_named_with_the_feature(tmp_path: Path) -> None:
    asked = prompts(300)
    answers = ["A plain sentence." for _ in asked]
    for i in range(0, 300, 6):  # half of the rows about animals
        answers[i] = "a plain phrase"
    findings = check_topics(topics_of(tmp_path, table := table_with(asked, answers)), table)
    uneven = [finding for finding in findings if finding.check == "uneven_style"]
    assert uneven
    assert {origin.line % 3 for finding in uneven for origin in finding.rows} == {1}
    assert {finding.data["feature"] for finding in uneven} <= {"capital first", "full stop last"}


def test_even_style_is_not_complained_of(tmp_path: Path) -> None:
    table = table_with(prompts(300), ["A plain sentence."] * 300)
    assert [finding.check for finding in check_topics(topics_of(tmp_path, table), table)] == ["topics"]


def test_the_map_has_a_bounded_number_of_points_with_their_rows(tmp_path: Path) -> None:
    table = table_with(prompts(90), ["Fine."] * 90)
    points = map_points(topics_of(tmp_path, table), table, most=40)
    assert 20 <= len(points) <= 40
    assert points[0]["row"] == "train.jsonl:1"
    assert set(points[0]) == {"x", "y", "topic", "row"}


def test_centres_from_a_sample_serve_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "FITTED_ROWS", 100)
    random = np.random.default_rng(0)
    vectors = unit(np.repeat(np.eye(4, dtype=np.float32), 250, axis=0) + random.normal(0, 0.05, (1000, 4)))
    labels, centres = spherical_k_means(vectors.astype(np.float32), 4, seed=0)
    assert len(centres) == 4
    assert all(len(set(labels[i * 250 : (i + 1) * 250])) == 1 for i in range(4))
