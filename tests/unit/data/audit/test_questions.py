"""Which two words are one word and a slip of the pen."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from residency.data.audit.questions import (
    CLOSING,
    asking,
    closing_courtesy,
    equal_questions,
    is_misspelling,
    may_ask_same,
    read_questions,
    same_question,
)
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


def test_many_prompts_at_once_are_told_apart_as_one_by_one() -> None:
    vocabulary = Vocabulary()
    texts = [*ASKED, "", "the", "Thanks!", *ASKED[::-1]]
    prompts = read_words(texts, vocabulary)
    questions = read_questions(texts, ["", "Be brief."] * (len(texts) // 2) + [""], prompts, vocabulary)
    asked = [(asking(questions, row), questions.systems[row]) for row in range(len(texts))]
    assert equal_questions(questions).tolist() == [asked.index(one) for one in asked]


@pytest.mark.parametrize("end", [
    "please", "kindly", "hi", "hey", "hello", "good morning", "good day!", "good evening", "thanks", "Thank you.", "ok",
    "okay", "well", "so...", "tell me", "explain to me", "I want to know", "i'd like to know", "I have a question",
    "my question is:", "could you please tell me", "can you show", "KINDLY, thank\tyou --", "to me", "pleased", "",
])  # fmt: skip
def test_a_courtesy_at_the_end_is_found_by_its_last_word_first(end: str) -> None:
    text = f"When does the harbour open, {end}"
    found = CLOSING.search(text)
    assert (found and found[0]) == ((match := closing_courtesy(text)) and match[0])


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
