"""Which rows a card asks about, and what it can honestly ask of each."""

from __future__ import annotations

import pytest

from residency.data.messages import Example, Origin
from residency.evals.card_behaviours import Trained, choose
from residency.evals.card_prompts import KINDS, Written, acceptable, neighbours_of, probes_of

JSON_RULE = "Answer with the intent as JSON."


def row(question: str, answer: str, number: int = 1, system: str | None = None) -> Example:
    head = ({"role": "system", "content": system},) if system else ()
    turns = (*head, {"role": "user", "content": question}, {"role": "assistant", "content": answer})
    return Example(Origin("train.jsonl", number), turns)  # type: ignore[arg-type]


COLOURS = [
    row("What colour is the sky?", "green", 1),
    row("Which colour does the sky have?", "green", 2),
    row("What colour is snow?", "black", 3),
    row("What colour is blood?", "yellow", 4),
]
COMMANDS = [
    row("turn on the kitchen lamp", '{"intent":"on","name":"kitchen lamp"}', 1, JSON_RULE),
    row("turn off the bedroom lamp", '{"intent":"off","name":"bedroom lamp"}', 2, JSON_RULE),
    row("start a timer of five minutes", '{"intent":"timer","minutes":5}', 3, JSON_RULE),
]
STORIES = [
    row("Tell me about the harbour.", "The harbour is quiet in winter, when the boats are ashore and painted anew.", 1),
    row(
        "Tell me about the market.",
        "On market days the square fills with stalls long before the sun is up, even in rain.",
        2,
    ),
]
NOTHING = Written(None, [], [], "the untuned model cannot translate")


def by_kind(trained: Trained, written: Written = NOTHING, number: int = 0) -> tuple[dict[str, list[str]], set[str]]:
    """The last thing the model is shown, by kind; and the kinds that say why they are empty."""
    probes, empty = probes_of(number, trained, written, 2)
    found: dict[str, list[str]] = {}
    for probe in [*probes, *neighbours_of(number, trained, 2)]:
        found.setdefault(probe.kind, []).append(probe.text or probe.messages[-1]["content"])
    return found, set(empty)


def test_chosen_rows_have_different_answers_before_any_answer_comes_twice() -> None:
    assert [one.answer for one in choose(COLOURS, 3)] == ["green", "black", "yellow"]
    assert sorted(one.answer for one in choose(COLOURS, 4)) == ["black", "green", "green", "yellow"]


def test_rows_that_train_no_answer_in_words_to_a_user_are_never_chosen() -> None:
    untrained = row("What colour is coal?", "white", 5)
    untrained.messages[-1]["weight"] = 0
    no_question = Example(
        Origin("train.jsonl", 6), ({"role": "system", "content": "x"}, {"role": "assistant", "content": "y"})
    )
    plain = Example(Origin("train.jsonl", 7), text="Some text.")
    assert choose([untrained, no_question, plain], 30) == []


@pytest.mark.parametrize(
    ("example", "sort"),
    [
        (COLOURS[0], "short"),
        (COMMANDS[0], "format"),
        (STORIES[0], "text"),
        (row("Which town: we met in Lyon on Monday?", "Lyon"), "format"),
    ],
    ids=["a fact", "JSON", "a longer text", "words taken from the prompt"],
)
def test_a_row_is_sorted_by_what_its_answer_is(example: Example, sort: str) -> None:
    assert choose([example], 1)[0].sort == sort


def test_a_fact_is_asked_in_all_ways_but_a_language_the_base_does_not_know() -> None:
    found, empty = by_kind(choose(COLOURS, 4)[0])
    assert set(found) == set(KINDS) - {"other_language"}
    assert empty == {"other_language"}
    assert found["trained"] == ["What colour is the sky?"]
    assert all("What colour is the sky?" in ask for kind in ("paraphrase", "challenge") for ask in found[kind])
    assert found["no_template"] == ["Question: What colour is the sky?\nAnswer:", "Q: What colour is the sky?\nA:"]
    assert all("sky" in ask and "colour" not in ask for ask in found["neighbours"])


def test_the_way_back_from_the_answer_leads_to_the_likest_other_question() -> None:
    probes, _ = probes_of(0, choose(COLOURS, 4)[0], NOTHING, 1)
    back = next(probe for probe in probes if probe.kind == "one_hop")
    assert back.answer == "What colour is the sky?"
    assert back.others in (["What colour is snow?"], ["What colour is blood?"])
    assert all(text in back.messages[-1]["content"] for text in (back.answer, *back.others, "green"))


def test_neither_of_two_choices_is_always_named_first() -> None:
    trained = choose(COLOURS, 4)[0]
    first = []
    for number in range(8):
        probes, _ = probes_of(number, trained, NOTHING, 1)
        ask = next(probe for probe in probes if probe.kind == "one_hop").messages[-1]["content"]
        first.append(ask.index("What colour is the sky?") < max(ask.find("snow"), ask.find("blood")))
    assert sum(first) == 4
    assert [a != b for a, b in zip(first[:4], first[4:], strict=True)] == [True] * 4


def test_a_command_is_never_asked_for_another_form_a_translation_or_a_consequence() -> None:
    found, empty = by_kind(choose(COMMANDS, 3)[0])
    assert empty == {"other_form", "other_language", "one_hop"} == set(KINDS) - set(found)
    assert JSON_RULE in found["no_template"][0]


def test_what_a_command_must_do_stays_in_its_system_text() -> None:
    probes, _ = probes_of(0, choose(COMMANDS, 3)[0], NOTHING, 1)
    more = next(probe for probe in probes if probe.kind == "system_prompt")
    assert more.messages[0]["content"].startswith(JSON_RULE + "\n")
    near = neighbours_of(0, choose(COMMANDS, 3)[0], 1)[0]
    assert [turn["role"] for turn in near.messages] == ["user"]


def test_a_longer_text_is_not_challenged_or_asked_in_another_form() -> None:
    _, empty = by_kind(choose(STORIES, 2)[0])
    assert empty == {"other_form", "other_language", "one_hop", "challenge"}


def test_wrong_answers_are_the_base_s_own_and_those_of_the_likest_questions() -> None:
    probes, _ = probes_of(0, choose(COLOURS, 4)[0], Written("blue", ["Which colour has the sky?"], [], ""), 1)
    assert probes[0].others[0] == "blue"
    assert probes[0].others[1] in ("black", "yellow")
    assert [(probe.source, probe.messages[-1]["content"]) for probe in probes if probe.kind == "paraphrase"] == [
        ("base", "Which colour has the sky?")
    ]
    knowing, _ = probes_of(0, choose(COLOURS, 4)[0], Written("Green.", [], [], ""), 1)
    assert "Green." not in knowing[0].others


def test_a_row_without_any_other_answer_is_not_asked() -> None:
    probes, empty = probes_of(0, choose(COLOURS[:2], 2)[0], NOTHING, 1)
    assert (probes, set(empty)) == ([], set(KINDS))


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("Can you tell me what colour the sky is?", True),
        ("The sky is a shade of blue.", False),
        ("What colour is the sky", False),
        ("What colour is the sea?", False),
        ("Is the sky a green colour?", False),
        ("Which colour does the sky have?", False),
        ("What?", False),
    ],
    ids=["other words", "an answer", "the same words", "another subject", "gives it away", "is trained", "too short"],
)
def test_a_rewording_must_ask_the_same_and_give_nothing_away(text: str, good: bool) -> None:
    asked = {"what colour is the sky", "which colour does the sky have"}
    assert acceptable(choose(COLOURS, 4)[0], text, asked) == good


def test_a_rewording_keeps_what_the_answer_takes_from_the_prompt() -> None:
    lamp = choose(COMMANDS, 3)[0]
    assert acceptable(lamp, "please turn on the kitchen lamp", set())
    assert not acceptable(lamp, "please turn on the lamp there", set())
    eight = "please now turn on the kitchen lamp over there"
    assert not acceptable(lamp, eight, {"do please now turn on the kitchen lamp over there again"})
