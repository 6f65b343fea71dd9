"""Answers of a form that few others have, in the file or to like requests."""

from __future__ import annotations

import numpy as np
import pytest

from residency.data.audit.style import FORMS, TRAITS, asked_for, minorities, traits_of

PLAIN, JSON, SHORT = "The harbour opens.", '{"answer": "yes"}', "yes"


def names(answer: str) -> set[str]:
    return {name for name, has in zip(TRAITS, traits_of([answer])[0], strict=True) if has and name in FORMS}


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ('{"answer": 3}', "is JSON"),
        ("```\nprint(3)\n```", "is a code block"),
        ("- one\n  and a half\n- two", "is a bulleted list"),
        ("1. one\n2. two", "is a numbered list"),
        ("# Answer\n\nIt is three.", "opens with a heading"),
        ("**Answer**\nIt is three.", "opens with a heading"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "is a table"),
        ("<ul><li>three</li></ul>", "is HTML or XML"),
        ("Sure! It is three.", "opens with a courtesy"),
        ('Sure! {"answer": 3}', "opens with a courtesy"),
        ("IT IS THREE OF THEM.", "is in capitals"),
        ("It is three \N{SMILING FACE WITH SUNGLASSES}", "has emoji"),
        ("It is three!!!", "shouts"),
    ],
)
def test_an_answer_as_a_whole_has_a_form(answer: str, form: str) -> None:
    assert names(answer) == {form}


def test_a_text_in_json_is_another_form_than_data_in_json() -> None:
    assert names('{"answer": "Say \\"three\\"."}') == {"is JSON", "is a text in JSON"}
    assert names('{"taskId": "t-3"}') == names('{"answer": "three", "unit": "m"}') == {"is JSON"}
    answers = ['{"taskId": "t-3"}'] * 990 + [JSON] * 2
    assert dict(minorities(traits_of(answers)))["is a text in JSON"].tolist() == [990, 991]


@pytest.mark.parametrize(
    "answer",
    [
        "Print it:\n```\nprint(3)\n```\nThat is all.",
        "There are two:\n- one\n- two",
        "It is **three**.",
        "\u4f60\u597d, FIFA \u548c COVID \u662f\u4ec0\u4e48\u610f\u601d\u5462? \u6211\u4e0d\u77e5\u9053\u7684\u3002",
    ],
)
def test_prose_that_holds_something_is_prose(answer: str) -> None:
    assert names(answer) == set()


def test_a_form_is_rare_in_the_file_or_among_like_requests() -> None:
    """Half of the requests are answered in JSON, half in a sentence: neither is rare but where it does not belong."""
    answers = [JSON] * 400 + [PLAIN] * 400
    answers[7], answers[500] = PLAIN, JSON
    rows = np.arange(800)
    nearest = np.array([[other for other in range(200 * (row // 200), 200 * (row // 200) + 201) if other != row][:200]
                        for row in range(800)], dtype=np.int32) % 800  # fmt: skip
    found = dict(minorities(traits_of(answers), rows, nearest))
    assert found["is JSON"].tolist() == [500]
    assert found["unlike the others, not: is JSON"].tolist() == [7]
    assert minorities(traits_of(answers)) == []


def test_a_habit_is_rare_both_ways() -> None:
    """Ten rows that begin in lower case are few; where all like requests are answered so, they break no habit."""
    answers = [PLAIN] * 2990 + [SHORT] * 10
    answers[3] = SHORT
    nearest = np.tile(np.arange(1000, 1200, dtype=np.int32), (3000, 1))
    nearest[2990:] = np.arange(2990, 3000, dtype=np.int32)[np.arange(200) % 10]
    found = dict(minorities(traits_of(answers), np.arange(3000), nearest))
    assert found["begins in lower case"].tolist() == [3]
    assert dict(minorities(traits_of(answers)))["begins in lower case"].tolist() == [3, *range(2990, 3000)]


@pytest.mark.parametrize(
    ("prompt", "form"),
    [
        ("Give me the user as JSON.", "is JSON"),
        ("Gib mir das als XML.", "is HTML or XML"),
        ("Make a table with two rows.", "is a table"),
        ("DO YOU KNOW BASKETBALL", "is in capitals"),
        ("Hi there!!", "shouts"),
    ],
)
def test_a_prompt_that_names_a_form_or_has_it_asks_for_it(prompt: str, form: str) -> None:
    assert asked_for(form, prompt)
    assert not asked_for("is a text in JSON", prompt)
    assert not asked_for(form, "Who is the user?")
