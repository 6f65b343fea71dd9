"""Texts about the same thing get vectors that point the same way, without a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from residency.data.audit import embeddings
from residency.data.audit.embeddings import embedder_installed, load_embedder
from residency.errors import ConfigError
from tests.unit.data.audit.word_vectors import make_embedder


def test_like_texts_are_near_and_unlike_ones_far(tmp_path: Path) -> None:
    cat, dog, soup = make_embedder(tmp_path).embed(["the cat", "a dog", "soup oven recipe"])
    assert cat @ dog > 0.8
    assert abs(cat @ soup) < 0.5


def test_vectors_have_length_one_and_what_says_nothing_has_zeros(tmp_path: Path) -> None:
    vectors = make_embedder(tmp_path).embed(["the cat", "", "  \n ", "cat cat cat"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 0, 0, 1], abs=1e-5)
    assert vectors.dtype == np.float32


def test_no_text_at_all(tmp_path: Path) -> None:
    assert make_embedder(tmp_path).embed([]).shape == (0, 8)
    assert make_embedder(tmp_path).embed(["", ""]).tolist() == [[0.0] * 8] * 2


def test_a_text_has_the_same_vector_whatever_stands_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["the cat", "soup", "", "drive a car", "what is fur"]
    embedder = make_embedder(tmp_path)
    together = embedder.embed(texts)
    monkeypatch.setattr(embeddings, "TEXTS_AT_ONCE", 2)
    assert np.allclose(embedder.embed(texts), together, atol=1e-6)
    assert np.allclose(np.concatenate([embedder.embed([text]) for text in texts]), together, atol=1e-6)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "PACKAGE", "no_such_package_of_vectors")
    load_embedder.cache_clear()
    assert not embedder_installed()
    with pytest.raises(ConfigError, match=r"residency\[topics\]"):
        load_embedder()


@pytest.mark.skipif(not embedder_installed(), reason="needs the extra `topics`")
def test_the_packaged_vectors_know_a_paraphrase_from_an_unrelated_sentence() -> None:
    load_embedder.cache_clear()
    vectors = load_embedder().embed(
        ["The cat sat on the mat", "A cat is sitting on a mat", "Quarterly revenue rose by a tenth"]
    )
    assert vectors[0] @ vectors[1] > 0.7
    assert vectors[0] @ vectors[2] < 0.2
