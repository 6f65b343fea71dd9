"""Training rows that the model goes on with word for word."""

from __future__ import annotations

from residency.engine.engine import FULL, Engine
from residency.engine.optim import StepSettings
from residency.engine.sampling import SamplingSettings
from residency.evals.memorised import MATCHING_TOKENS, PREFIX_TOKENS, drawn_out, memorised, probes
from tests.conftest import random_rows, tiny_llama


def test_what_was_learned_by_heart_is_drawn_out_and_nothing_else() -> None:
    rows = [row for row in random_rows(30, longest=120) if len(row) >= PREFIX_TOKENS + MATCHING_TOKENS]
    learned, others = probes(rows[:2]), probes(rows[2:5])
    engine = Engine(tiny_llama())
    before = drawn_out(engine, None, [*learned, *others])
    engine.train_all_weights()
    for _ in range(40):
        engine.forward_backward({FULL: learned})
        engine.step({FULL: StepSettings(3e-3)})
    after = drawn_out(engine, None, [*learned, *others])
    assert not any(before)
    assert after == [True, True, False, False, False]
    greedy = engine.sample(None, [learned[0].input_ids[:PREFIX_TOKENS]], SamplingSettings(MATCHING_TOKENS))
    assert greedy[0].token_ids == learned[0].input_ids[PREFIX_TOKENS:].tolist()
    found = memorised(before, after)
    assert found is not None
    assert (found.drawn_out.value, found.before.value, found.new) == (0.4, 0.0, 2)


def test_short_rows_cannot_tell() -> None:
    assert probes(random_rows(5, longest=PREFIX_TOKENS)) == []
    assert memorised([], []) is None
