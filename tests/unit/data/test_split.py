"""Held-out rows: the same every time, and never a prompt that training has seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residency.data.messages import Example, Message, Origin
from residency.data.split import parse_eval, split_examples
from residency.errors import ConfigError, DataError


def ask(line: int, prompt: str) -> Example:
    messages = (Message(role="user", content=prompt), Message(role="assistant", content=f"answer {line}"))
    return Example(Origin("a.jsonl", line), messages)


def test_the_split_is_the_same_every_time_and_differs_by_seed() -> None:
    rows = [ask(i, f"question {i}") for i in range(100)]
    train, held_out = split_examples(rows, 0.1, seed=0)
    assert (len(train), len(held_out)) == (90, 10)
    assert split_examples(rows, 0.1, seed=0) == (train, held_out)
    assert split_examples(rows, 0.1, seed=1) != (train, held_out)


def test_equal_prompts_stay_on_one_side() -> None:
    rows = [ask(i, f" Question\n{i % 20}" if i % 2 else f"question {i % 20}  ") for i in range(100)]
    train, held_out = split_examples(rows, 0.2, seed=3)
    prompts = [{" ".join(row.messages[0]["content"].split()).lower() for row in side} for side in (train, held_out)]  # type: ignore[union-attr]
    assert not prompts[0] & prompts[1]
    assert len(held_out) == 20


def test_one_prompt_alone_cannot_be_split() -> None:
    with pytest.raises(DataError, match="3 training rows with 1 prompt"):
        split_examples([ask(i, "same") for i in range(3)], 0.5, seed=0)


@given(
    prompts=st.lists(st.integers(0, 8), min_size=2, max_size=40).filter(lambda found: len(set(found)) > 1),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_both_sides_have_rows_and_none_is_lost(prompts: list[int], share: float, seed: int) -> None:
    rows = [ask(i, str(prompt)) for i, prompt in enumerate(prompts)]
    train, held_out = split_examples(rows, share, seed)
    assert train
    assert held_out
    assert sorted([*train, *held_out], key=lambda row: row.origin.line) == rows
    assert not {row.messages[0]["content"] for row in train} & {row.messages[0]["content"] for row in held_out}


def test_text_rows_are_split_by_their_text() -> None:
    rows = [Example(Origin("a.txt", i), text=f"story {i % 5}") for i in range(10)]
    train, held_out = split_examples(rows, 0.2, seed=0)
    assert not {row.text for row in train} & {row.text for row in held_out}


@pytest.mark.parametrize(("value", "parsed"), [("10%", 0.1), (" 2.5 % ", 0.025), ("eval.jsonl", "eval.jsonl")])
def test_eval_is_a_share_or_a_path(value: str, parsed: float | str) -> None:
    assert parse_eval(value) == pytest.approx(parsed) if isinstance(parsed, float) else parse_eval(value) == parsed


@pytest.mark.parametrize("value", ["0%", "100%", "-5%", "250%"])
def test_a_share_of_nothing_or_all_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="a share lies between 0% and 100%"):
        parse_eval(value)
