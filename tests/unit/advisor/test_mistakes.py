"""What is wrong with a wrong answer."""

from __future__ import annotations

import pytest

from residency.advisor.mistakes import agreement, mistake_of, read_vocabulary
from residency.data.messages import Example, Message, Origin

ANSWER = '{"intent": "TurnOff", "area": "kitchen", "minutes": 5}'
JSON_ANSWERS = [ANSWER, '{"intent": "TurnOn", "area": "garage", "minutes": 7}']
LABELS = ["red", "green", "blue"] * 5
NAMES = [f"City {number}" for number in range(20)]


def kind(output: str, reference: str, others: list[str], question: str = "kitchen off in 5") -> str:
    messages = Message(role="user", content=question), Message(role="assistant", content=reference)
    return mistake_of(output, Example(Origin("x", 1), messages), question, read_vocabulary(others))


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("Sure, I turned it off.", "parse"),
        (f"```json\n{ANSWER}\n```", "format"),
        (f"Here you are: {ANSWER}", "format"),
        (ANSWER.replace("5", '"5"').replace("TurnOff", "turnoff"), "format"),
        (ANSWER.replace("TurnOff", "TurnOn"), "convention"),
        (ANSWER.replace("TurnOff", "SwitchOff"), "convention"),
        (ANSWER.replace("minutes", "mins"), "convention"),
        (ANSWER.replace("}", ', "mood": "calm"}'), "convention"),
    ],
)
def test_json(output: str, expected: str) -> None:
    assert kind(output, ANSWER, JSON_ANSWERS) == expected


def test_a_value_that_must_be_known_or_worked_out_is_content() -> None:
    total = '{"total": 476216}'
    assert kind('{"total": 1212}', total, ['{"total": 51465}'], "964 times 494") == "content"


@pytest.mark.parametrize(
    ("output", "reference", "others", "expected"),
    [
        ("paris.", "Paris", NAMES, "format"),
        ("The capital of France is Paris, a large city.", "Paris", NAMES, "style"),
        ("Lyon", "Paris", NAMES, "content"),
        ("So 12 times 3 is 36", "36", NAMES, "style"),
        ("36 is what 12 and 24 make; no, 37", "36", NAMES, "content"),
        ("RED", "red", LABELS, "format"),
        ("crimson", "red", LABELS, "format"),
        ("green", "red", LABELS, "convention"),
        ("no", "yes", ["yes", "no"] * 10, "content"),
    ],
)
def test_text(output: str, reference: str, others: list[str], expected: str) -> None:
    assert kind(output, reference, others) == expected


def test_agreement_is_about_what_is_said() -> None:
    assert agreement(["a", "A.", "a"]) == 1.0
    assert agreement(['{"a": 1, "b": 2}', '{"b": 2, "a": 1}', "no"]) == pytest.approx(1 / 3)
