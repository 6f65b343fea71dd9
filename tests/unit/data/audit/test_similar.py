"""Similar rows are found without comparing each with each, and how alike two are is estimated."""

from __future__ import annotations

import random

import numpy as np

from residency.data.audit.similar import NUM_HASHES, ROWS_HASHED, SHINGLE_WORDS, signatures, similar_pairs
from residency.data.audit.words import Vocabulary, Words, read_words


def rows_alike(changed: int, seed: int) -> tuple[list[str], float]:
    """A row of sixty words and one with `changed` of them exchanged, and the exact Jaccard similarity of their runs."""
    chance = random.Random(seed)
    words = [f"w{chance.randrange(10**6)}" for _ in range(60)]
    other = list(words)
    for place in chance.sample(range(60), changed):
        other[place] = f"x{place}"
    runs = [{tuple(each[i : i + SHINGLE_WORDS]) for i in range(60)} for each in (words, other)]
    return [" ".join(words), " ".join(other)], len(runs[0] & runs[1]) / len(runs[0] | runs[1])


def read(texts: list[str]) -> Words:
    return read_words(texts, Vocabulary())


def test_likeness_is_estimated_without_bias_and_no_alike_pair_is_missed() -> None:
    errors = []
    for seed in range(40):
        texts, exact = rows_alike(1 + seed % 5, seed)
        found = similar_pairs(signatures([read(texts)], 2), np.arange(2), 0.0)
        assert found.pairs.tolist() == [[0, 1]]
        errors.append(found.likeness[0] - exact)
    assert abs(np.mean(errors)) < 3 * 0.5 / np.sqrt(NUM_HASHES * len(errors))
    assert np.abs(errors).max() < 4 * 0.5 / np.sqrt(NUM_HASHES)


def test_a_row_has_the_same_signature_wherever_it_stands() -> None:
    chance = random.Random(0)
    texts = [" ".join(f"w{chance.randrange(50)}" for _ in range(number % 7)) for number in range(3 * ROWS_HASHED)]
    words = read(texts)
    each = np.concatenate([signatures([words.part(row, row + 1)], 1) for row in range(len(words))])
    assert np.array_equal(signatures([words], len(words)), each)


def test_other_rows_and_rows_without_words_are_similar_to_nothing() -> None:
    chance = random.Random(0)
    texts = [" ".join(f"w{chance.randrange(10**6)}" for _ in range(20)) for _ in range(500)]
    words = read([*texts, "", "!", texts[7]])
    assert similar_pairs(signatures([words], len(words)), np.arange(len(words)), 0.4).pairs.tolist() == [[7, 502]]


def test_of_many_equal_rows_each_is_tied_to_another_without_comparing_all() -> None:
    words = read(["the harbour opens at nine in the morning"] * 3000)
    pairs = similar_pairs(signatures([words], len(words)), np.arange(len(words)), 0.4).pairs
    assert set(pairs.ravel().tolist()) == set(range(3000))
    assert len(pairs) < 2 * 3000
