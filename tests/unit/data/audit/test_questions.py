"""Which two words are one word and a slip of the pen."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from residency.data.audit.questions import is_misspelling, may_ask_same, read_questions, same_question
from residency.data.audit.words import Vocabulary, read_words, shared_words


def misspelt(one: str, two: str, **found: int) -> bool:
    """Whether `one` and `two` are the same word where so many prompts hold them."""
    texts = [word for word, count in found.items() for _ in range(count)]
    vocabulary = Vocabulary()
    questions = read_questions(texts, [""] * len(texts), read_words(texts, vocabulary), vocabulary)
    return is_misspelling(questions, vocabulary.ids[one], vocabulary.ids[two])


def test_a_slip_is_found_once_or_next_to_nowhere() -> None:
    assert misspelt("harbuor", "harbour", harbuor=1, harbour=2)
    assert misspelt("harbuor", "harbour", harbuor=2, harbour=2000)
    assert misspelt("harbuor", "harbour", harbuor=2, harbour=200)
    assert not misspelt("harbuor", "harbour", harbuor=2, harbour=100)
    assert not misspelt("harbor", "harbour", harbor=2, harbour=200)
    assert not misspelt("harbuor", "harbour", harbuor=4, harbour=9000)


@pytest.mark.parametrize(("one", "two"), [("iceland", "ireland"), ("gambia", "zambia"), ("cat", "act")])
def test_other_names_are_no_slips(one: str, two: str) -> None:
    assert not misspelt(one, two, **{one: 1, two: 5})


ASKED = [
    "Don't you think that we're late, and that I'm what's wrong here?",
    "Hi, please tell me: do not you think that we are late and that I am what is wrong here? Thanks!",
    "Kindly explain to me the way to the harbour of the old town",
    "the way to harbuor of the old town",
    "",
    "the the the",
]


def test_words_shared_by_pairs_of_rows_are_counted_once_each() -> None:
    vocabulary = Vocabulary()
    words = read_words(ASKED, vocabulary)
    pairs = np.array(list(combinations(range(len(ASKED)), 2)))
    shared, either = shared_words(words, pairs)
    sets = [({*words.row(a)}, {*words.row(b)}) for a, b in pairs.tolist()]
    assert shared.tolist() == [len(a & b) for a, b in sets]
    assert either.tolist() == [len(a | b) for a, b in sets]


def test_counting_words_rules_out_no_two_prompts_that_ask_the_same() -> None:
    vocabulary = Vocabulary()
    words = read_words(ASKED, vocabulary)
    questions = read_questions(ASKED, [""] * len(ASKED), words, vocabulary)
    pairs = np.array(list(combinations(range(len(ASKED)), 2)))
    shared, either = shared_words(words, pairs)
    same = [same_question(questions, *pair) for pair in pairs.tolist()]
    assert [pair for pair, one in zip(pairs.tolist(), same, strict=True) if one] == [[0, 1], [2, 3]]
    assert not any(
        one and not may for one, may in zip(same, may_ask_same(questions, pairs, either - shared), strict=True)
    )
