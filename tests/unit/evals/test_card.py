"""A tiny model learns what is red, green and blue, and its card says where that holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from residency.config.graders import JsonMatch, StringCheck
from residency.data.messages import Example, Origin
from residency.data.render import Renderer, renderer_for
from residency.engine.engine import FULL, Engine
from residency.engine.optim import StepSettings
from residency.engine.sampling import SamplingSettings
from residency.evals.card import Asked, judged, measure, plan
from residency.evals.card_behaviours import choose
from residency.evals.card_prompts import ELSEWHERE, KINDS, NEAR
from residency.evals.card_records import Card, Probe, ProbeSet
from residency.evals.card_score import candidates, margins, partings
from residency.evals.card_summary import advice, summarise
from residency.evals.stats import clustered_wilson, wilson
from tests.e2e.tiny import make_tokenizer, rows


def colours(count: int) -> list[Example]:
    return [
        Example(Origin("train.jsonl", i + 1), tuple(row["messages"]))  # type: ignore[arg-type]
        for i, row in enumerate(rows(count))
    ]


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return renderer_for(make_tokenizer())


@pytest.fixture(scope="module")
def base(renderer: Renderer) -> Asked:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=len(renderer.tokenizer), max_position_embeddings=1024, tie_word_embeddings=True,
        initializer_range=0.1, bos_token_id=None, eos_token_id=renderer.tokenizer.eos_token_id, pad_token_id=None,
    )  # fmt: skip
    return Asked(Engine(LlamaForCausalLM(config).eval()), None, renderer, SamplingSettings(8, renderer.stop_ids))


@pytest.fixture(scope="module")
def planned(base: Asked) -> ProbeSet:
    found = plan(base, colours(30), 6)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def card(base: Asked, planned: ProbeSet) -> Card:
    base.engine.train_all_weights()
    random = np.random.default_rng(0)
    known = base.renderer.render_all(colours(30))
    for _ in range(60):
        base.engine.forward_backward({FULL: [known[i] for i in random.integers(0, 30, 8)]})
        base.engine.step({FULL: StepSettings(5e-3, 0.0, 1.0)})
    return measure(base, planned, colours(30), [StringCheck()], most=6)


def test_what_was_trained_holds_near_the_training_prompts(card: Card) -> None:
    trained = next(line for line in card.kinds if line.kind == "trained")
    assert trained.holds.value == 1.0
    assert trained.before.value < 1.0
    assert trained.right is not None
    assert trained.right.value == 1.0
    assert card.sentence.startswith(f"Holds in {100 * card.near.value:.0f} % [")
    assert "elsewhere; neighbours intact" in card.sentence


def test_every_prompt_can_be_traced_from_the_row_to_the_verdict(card: Card, planned: ProbeSet) -> None:
    origins = {f"train.jsonl:{i}" for i in range(1, 31)}
    assert {one.row for one in card.behaviours} <= origins
    assert (card.rows, len(card.behaviours), len(card.probes)) == (30, 6, len(planned.probes))
    for probe in card.probes:
        assert probe.messages or probe.text
        assert None not in (probe.before, probe.margin, probe.output, probe.right)
        likelier = probe.margin is not None and probe.margin > 0
        assert probe.holds == (probe.right if probe.kind == "neighbours" else likelier)
    for number, one in enumerate(card.behaviours):
        asked = {probe.kind for probe in card.probes if probe.behaviour == number}
        assert asked | set(one.empty) == set(KINDS)
        assert asked & set(one.empty) == set()


def test_the_shares_are_those_of_the_prompts(card: Card) -> None:
    for kinds, found in ((NEAR, card.near), (ELSEWHERE, card.elsewhere), (("neighbours",), card.neighbours)):
        held = [bool(probe.holds) for probe in card.probes if probe.kind in kinds]
        assert found is not None
        assert (found.value, found.n) == (pytest.approx(np.mean(held)), len(held))
        assert found.low < found.value < found.high or found.value in (0, 1)


def test_a_card_is_the_same_when_made_again(base: Asked, card: Card) -> None:
    again = measure(base, ProbeSet.model_validate_json(ProbeSet(**card.model_dump(include=set(ProbeSet.model_fields)))
                    .model_dump_json()), colours(30), [StringCheck()], most=6)  # fmt: skip
    assert again.model_dump(exclude={"seconds"}) == card.model_dump(exclude={"seconds"})


def test_too_few_rows_make_no_card(base: Asked) -> None:
    assert plan(base, colours(2), 6) is None
    assert plan(base, [Example(Origin("a", i), text="Plain text.") for i in range(9)], 6) is None


def test_a_margin_is_the_difference_of_logits_where_the_answers_part(base: Asked, renderer: Renderer) -> None:
    talk = [{"role": "user", "content": "red 1"}]
    probe = Probe(
        behaviour=0, kind="trained", source="row", messages=talk, text="", answer="fire", others=["fine", "sky"]
    )
    found = margins(base.engine, None, renderer, [probe], whole=[False])[0]
    by_hand = []
    right = candidates(renderer, probe)[0].input_ids
    for other in candidates(renderer, probe)[1:]:
        place = int((right[: len(other)] == other.input_ids[: len(right)]).argmin())
        ids = torch.from_numpy(right[:place]).long()[None]
        with torch.no_grad():
            logits = base.engine.model(input_ids=ids).logits[0, -1]
        by_hand.append(float(logits[right[place]] - logits[other.input_ids[place]]))
    assert found == pytest.approx(min(by_hand), abs=1e-3)


def test_a_bare_prompt_has_no_token_of_the_template(renderer: Renderer) -> None:
    probe = Probe(behaviour=0, kind="no_template", source="template", messages=[], text="Question: red 1\nAnswer:",
                  answer="fire", others=["sky"])  # fmt: skip
    for row in candidates(renderer, probe):
        assert "<|im_start|>" not in renderer.tokenizer.decode(row.input_ids)
        assert row.trained.any()
    right = candidates(renderer, probe)[0].input_ids
    [place] = partings(candidates(renderer, probe))
    assert renderer.tokenizer.decode(right[:place]) == "Question: red 1\nAnswer:"


def test_a_command_holds_where_its_text_is_right() -> None:
    answer = '{"intent":"on"}'
    turns = ({"role": "user", "content": "lamp on"}, {"role": "assistant", "content": answer})
    (chosen,) = choose([Example(Origin("a", 1), turns)], 1)  # type: ignore[arg-type]
    probe = Probe(
        behaviour=0, kind="paraphrase", source="template", messages=[], text="x", answer=answer, others=["{}"]
    )
    near = probe.model_copy(update={"kind": "neighbours", "answer": "A lamp gives light.", "others": [answer]})
    outputs = ['{ "intent": "on" }', "The lamp is on.", "A lamp is a light.", '{"intent":"off"}']
    assert judged([probe, probe, near, near], outputs, [chosen], JsonMatch()) == [True, False, True, False]


def test_advice_is_given_where_elsewhere_is_clearly_worse(card: Card) -> None:
    def made(elsewhere: bool) -> Card:
        probes = [probe.model_copy(update={"holds": probe.kind in NEAR or elsewhere}) for probe in card.probes]
        return summarise(ProbeSet(**card.model_dump(include={"behaviours", "rows", "seconds"}), probes=probes), "")

    assert advice(made(elsewhere=True)) is None
    assert "depends on the prompt" in (advice(made(elsewhere=False)) or "")


def test_prompts_that_go_together_count_as_one_piece_of_evidence() -> None:
    alone = clustered_wilson([True] * 60 + [False] * 40, list(range(100)))
    plain = wilson(60, 100)
    assert (alone.low, alone.high) == (pytest.approx(plain.low, abs=0.01), pytest.approx(plain.high, abs=0.01))
    together = clustered_wilson([i % 20 < 12 for i in range(100)], [i % 20 for i in range(100)])
    assert together.value == 0.6
    assert together.high - together.low > 2 * (alone.high - alone.low)
    sure = clustered_wilson([True] * 24, [i % 12 for i in range(24)])
    assert sure.low == pytest.approx(wilson(12, 12).low)


@pytest.mark.slow
@pytest.mark.parametrize(("clusters", "size"), [(8, 4), (12, 6), (30, 2)])
@pytest.mark.parametrize("alike", [0.05, 0.5])
def test_the_clustered_interval_covers(clusters: int, size: int, alike: float) -> None:
    """Behaviours that hold with a beta-distributed share of 0.7 on average; `alike` is their intraclass correlation."""
    random, hits, labels = np.random.default_rng(0), 0, np.repeat(np.arange(clusters), size).tolist()
    for shares in random.beta(0.7 * (1 / alike - 1), 0.3 * (1 / alike - 1), (1000, clusters)):
        found = clustered_wilson((random.random((clusters, size)) < shares[:, None]).ravel().tolist(), labels)
        hits += found.low <= 0.7 <= found.high
    assert hits >= 930
