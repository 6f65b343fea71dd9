"""Which two words are one word and a slip of the pen."""

from __future__ import annotations

import pytest

from residency.data.audit.questions import is_misspelling, read_questions
from residency.data.audit.words import Vocabulary, read_words


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
