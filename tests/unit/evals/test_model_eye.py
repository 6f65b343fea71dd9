"""A model that has learned something sees the rows that say otherwise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from residency.data.messages import Example, Message, Origin
from residency.data.render import Renderer, renderer_for
from residency.engine.engine import FULL, Engine
from residency.engine.optim import StepSettings
from residency.evals.model_eye import (
    Following,
    ask,
    belief,
    check_following,
    check_knowledge,
    doubts,
    factual,
    follow,
    last_answers,
    look,
    says,
)
from tests.e2e.tiny import make_tokenizer, rows


def example(question: str, answer: str, number: int = 1) -> Example:
    return Example(
        Origin("train.jsonl", number),
        ({"role": "user", "content": question}, {"role": "assistant", "content": answer}),
    )


def colours(count: int, start: int = 0) -> list[Example]:
    return [
        Example(Origin("train.jsonl", start + i + 1), tuple(row["messages"]))  # type: ignore[arg-type]
        for i, row in enumerate(rows(count, start=start))
    ]


def answered(row: Example, answer: str) -> Example:
    return replace(row, messages=(*row.prompt, Message(role="assistant", content=answer)))


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return renderer_for(make_tokenizer())


@pytest.fixture(scope="module")
def engine(renderer: Renderer) -> Engine:
    """A tiny model that has learned what is red, green and blue, also behind worked examples."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=len(renderer.tokenizer), max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=renderer.tokenizer.eos_token_id, pad_token_id=None,
    )  # fmt: skip
    engine = Engine(LlamaForCausalLM(config).eval())
    engine.train_all_weights()
    random = np.random.default_rng(0)
    known = colours(30)
    for _ in range(80):
        talks = [[known[i] for i in random.integers(0, 30, length)] for length in (1, 1, 2, 3, 5, 6)]
        batch = [replace(talk[0], messages=tuple(turn for row in talk for turn in row.messages)) for talk in talks]
        engine.forward_backward({FULL: renderer.render_all(batch)})
        engine.step({FULL: StepSettings(5e-3, 0.0, 1.0)})
    return engine


def test_answers_that_do_not_follow_stand_first(engine: Engine, renderer: Renderer) -> None:
    asked = colours(12)
    asked[3], asked[7] = answered(asked[3], "sky"), answered(asked[7], "fire")
    read = follow(engine, renderer, asked)
    assert set(np.argsort(-read.ratios)[:2].tolist()) == {3, 7}
    assert set(np.argsort(read.gains)[:2].tolist()) == {3, 7}
    (found,) = check_following(engine, renderer, asked, np.zeros(12))
    assert {str(origin) for origin in found.rows[:2]} == {"train.jsonl:4", "train.jsonl:8"}
    assert found.data["ratios"] == sorted(found.data["ratios"], reverse=True)


def test_the_other_rows_have_a_say_in_the_order() -> None:
    """The model finds the last two alike; one does not go with its question by the other rows either."""
    read = Following(np.array([0.3, 0.4, 0.5, 0.95, 0.95]), np.array([12.0, 10.0, 11.0, 0.5, 0.5]))
    assert np.argsort(-doubts(read, np.array([0.0, 0.2, -0.2, 0.2, -3.0]))).tolist()[:2] == [4, 3]


def test_a_long_answer_is_not_doubted_for_what_its_question_does_not_foretell() -> None:
    """Its ratio is that of the second, and it gains ten times as much."""
    read = Following(np.array([0.3, 0.9, 0.9, 0.4]), np.array([9.0, 0.8, 8.0, 10.0]))
    assert np.argmax(doubts(read, np.zeros(4))) == 1


def test_ratio_and_gain_are_those_of_plain_log_likelihoods(engine: Engine, renderer: Renderer) -> None:
    row = colours(1)[0]
    losses = []
    for question in (row.messages[0]["content"] or "", ""):
        (rendered,) = last_answers(renderer, [example(question, row.reference).messages], [row])
        ids = torch.from_numpy(rendered.input_ids).long()[None]
        with torch.no_grad():
            logprobs = engine.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        chosen = logprobs.gather(-1, ids[0, 1:, None])[:, 0]
        losses.append(-chosen[torch.from_numpy(rendered.trained[1:])])
    asked, unasked = losses
    read = follow(engine, renderer, [row])
    assert read.ratios[0] == pytest.approx(float(asked.mean() / unasked.mean()), rel=1e-3)
    assert read.gains[0] == pytest.approx(float(unasked.sum() - asked.sum()), rel=1e-3)


def test_only_the_last_answer_is_judged_whatever_its_weight(renderer: Renderer) -> None:
    talk: tuple[Message, ...] = (
        {"role": "user", "content": "red 1"}, {"role": "assistant", "content": "fire", "weight": 1},
        {"role": "user", "content": "blue 2"}, {"role": "assistant", "content": "sky", "weight": 0},
    )  # fmt: skip
    (row,) = last_answers(renderer, [talk], [Example(Origin("a", 1), talk)])
    trained = row.input_ids[row.trained].tolist()
    assert renderer.tokenizer.decode(trained, skip_special_tokens=True) == "sky"


def test_what_was_learned_is_known_and_its_contrary_a_conflict(engine: Engine, renderer: Renderer) -> None:
    facts = colours(30)
    wrong = {5, 17}
    for i in wrong:
        facts[i] = answered(facts[i], "sky" if facts[i].reference != "sky" else "grass")
    beliefs = ask(engine, renderer, facts, seed=1)
    assert {i for i, each in enumerate(beliefs) if each.knowledge == "conflict"} == wrong
    assert {each.knowledge for i, each in enumerate(beliefs) if i not in wrong} == {"known"}
    assert all(each.gap == 0 for each in beliefs if each.knowledge == "known")


@pytest.mark.parametrize(
    ("given", "gaps", "expected"),
    [
        (["Paris", "Paris.", "Paris"] * 2, [0.0, 0.0], "known"),
        (["Lyon", "Paris", "Nice", "Paris", "Paris", "Paris"], [1.0, 0.0], "maybe_known"),
        (["Lyon", "Nice", "Metz", "Lille", "Brest", "Tours"], [5.0, 5.0], "unknown"),
        (["Lyon", "Lyon.", "lyon", "Lyon", "Metz", "Nice"], [3.0, 4.0], "conflict"),
        (["Lyon", "Lyon", "Lyon", "Lyon", "Metz", "Nice"], [0.5, 1.0], "unknown"),
    ],
)
def test_what_a_model_holds_of_a_fact(given: list[str], gaps: list[float], expected: str) -> None:
    assert belief("Paris", given, gaps).knowledge == expected


def test_only_short_answers_that_are_no_labels_and_not_in_the_prompt_are_facts() -> None:
    capital = example("What is the capital of France?", "Paris")
    others = [
        example("Is it red or blue? It is red.", "red"),
        example("Turn on the light", '{"intent": "on"}'),
        example("Tell me a story", "Once upon a time there was a cat who liked to sleep in the sun."),
        *[example(f"Review number {i}", "positive") for i in range(30)],
    ]
    assert factual([capital, *others]) == [capital]


def test_words_are_compared_not_spelling() -> None:
    assert says("The answer is: PARIS!", "Paris.")
    assert not says("Parisian", "Paris")


def test_few_facts_are_not_judged(engine: Engine, renderer: Renderer) -> None:
    assert check_knowledge(engine, renderer, [example(f"q {i}", f"a{i}") for i in range(5)]) == []


def test_a_sample_is_looked_at_and_plain_text_is_left_out(engine: Engine, renderer: Renderer) -> None:
    texts = [Example(Origin("a.txt", 1), text="some text")]
    assert look(engine, renderer, texts, most=10) == []
    wrong = [answered(row, "grass fire") for row in colours(12)]
    for finding in look(engine, renderer, [*texts, *wrong], most=6):
        assert finding.data.get("looked_at", 6) == 6
