"""What counts as an anchor, what is remembered of it, and how far a changed model is from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from peft import LoraConfig

from residency.data.render import Renderer, renderer_for
from residency.engine.engine import Engine
from residency.engine.optim import StepSettings
from residency.evals import retention
from residency.evals.retention import (
    divergence_of,
    general_prompts,
    prompt_tokens,
    remember,
    remember_sets,
    without_overlap,
)
from residency.evals.scale import delta_of, sweep
from tests.conftest import tiny_llama
from tests.e2e.tiny import make_tokenizer

LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
PROMPTS = ["red", "green or blue?", "tell me of the sky", "grass"]


@pytest.fixture
def renderer() -> Renderer:
    return renderer_for(make_tokenizer())


def engine(renderer: Renderer, seed: int = 0) -> Engine:
    return Engine(tiny_llama(seed, vocab_size=len(renderer.tokenizer)))


def asked(renderer: Renderer) -> list[list[int]]:
    return [prompt_tokens(renderer, prompt) for prompt in PROMPTS]


def test_anchors_and_replay_cover_every_topic_and_format_and_never_share_a_prompt() -> None:
    anchors, replay = general_prompts("anchors"), general_prompts("replay")
    assert len(anchors) == len(replay) == 128
    assert not {one.prompt for one in anchors} & {one.prompt for one in replay}
    for prompts in (anchors, replay):
        assert len({one.topic for one in prompts}) == 12
        assert {one.format for one in prompts} == {"question", "task", "list", "talk"}
        assert len({(one.topic, one.format) for one in prompts}) == 48


def test_prompts_that_the_task_contains_are_no_anchors() -> None:
    prompts = ["How does a vaccine teach the body to fight a disease?", "What is a prime number, and is 51 one?"]
    task = ["Nurse: how does a vaccine TEACH the body to fight, please?"]
    assert without_overlap(prompts, task) == ([prompts[1]], [prompts[0]])
    assert without_overlap(prompts, ["a vaccine is a thing"]) == (prompts, [])


def test_what_is_remembered_is_cached_and_the_same_to_the_bit(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = remember(engine(renderer), renderer, asked(renderer), seed=0)
    monkeypatch.setattr(Engine, "sample", None)  # the second time nobody asks the base
    cached = remember(engine(renderer), renderer, asked(renderer), seed=0)
    for one, two in zip(fresh, cached, strict=True):
        np.testing.assert_array_equal(one.row.input_ids, two.row.input_ids)
        np.testing.assert_array_equal(one.row.trained, two.row.trained)
        np.testing.assert_array_equal(one.base.logprobs, two.base.logprobs)
        np.testing.assert_array_equal(one.base.token_ids, two.base.token_ids)


def test_sets_that_are_asked_together_answer_as_each_alone(
    renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = asked(renderer)
    alone = [remember(engine(renderer), renderer, prompts[:2], seed=0), remember(engine(renderer), renderer, prompts)]
    monkeypatch.setenv("RESIDENCY_CACHE", str(tmp_path))
    together = remember_sets(engine(renderer), renderer, [prompts[:2], [], prompts], seed=0)
    assert [len(one) for one in together] == [2, 0, len(prompts)]
    for one, two in zip([*alone[0], *alone[1]], [*together[0], *together[2]], strict=True):
        np.testing.assert_array_equal(one.row.input_ids, two.row.input_ids)
        np.testing.assert_allclose(one.base.logprobs, two.base.logprobs, atol=2e-3)


def test_another_base_or_other_prompts_are_asked_anew(
    renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESIDENCY_CACHE", str(tmp_path))
    remember(engine(renderer), renderer, asked(renderer), seed=0)
    remember(engine(renderer, seed=1), renderer, asked(renderer), seed=0)
    remember(engine(renderer), renderer, asked(renderer)[:2], seed=0)
    with_adapter = engine(renderer)
    with_adapter.add_adapter("one", LORA, seed=3)
    remember(with_adapter, renderer, asked(renderer), seed=0)
    assert len(list((tmp_path / "retention").iterdir())) == 3


def test_a_damaged_cache_is_asked_again(renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIDENCY_CACHE", str(tmp_path))
    remember(engine(renderer), renderer, asked(renderer), seed=0)
    [file] = (tmp_path / "retention").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert len(remember(engine(renderer), renderer, asked(renderer), seed=0)) == len(PROMPTS)


def test_the_base_is_at_zero_and_training_moves_away_from_it(renderer: Renderer) -> None:
    tuned = engine(renderer)
    anchors = remember(tuned, renderer, asked(renderer), seed=0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned.add_adapter("one", config, seed=1)
    before, _ = divergence_of(tuned, "one", anchors)
    assert abs(before.value) < 1e-3
    rows = [one.row for one in anchors]
    for _ in range(10):
        tuned.forward_backward({"one": rows})
        tuned.step({"one": StepSettings(1e-2)})
    after, each = divergence_of(tuned, "one", anchors)
    assert after.low < after.value < after.high
    assert after.value > 0.05
    assert len(each) == len(PROMPTS)
    same, _ = divergence_of(tuned, None, anchors)
    assert abs(same.value) < 1e-3  # the adapter off is the base

    delta = delta_of(tuned, "one", {})
    assert delta is not None
    result = sweep(delta, rows, anchors, after.value / 4, take=True)
    forgetting = [point.divergence.value for point in result.points]
    assert forgetting == sorted(forgetting)
    assert result.taken
    assert result.proposed is not None
    assert result.proposed < 1
    now, _ = divergence_of(tuned, "one", anchors)
    assert now.value <= after.value / 4
    delta.set(1.0)
    again, _ = divergence_of(tuned, "one", anchors)
    assert again.value == after.value


def test_perplexity_of_a_text_against_itself_is_one(renderer: Renderer) -> None:
    windows = retention.text_windows(renderer, "the sky is blue and the grass is green " * 200)
    losses = retention.losses_of(engine(renderer), None, windows)
    assert retention.perplexity_ratio(losses, losses, windows).value == 1.0
    assert retention.perplexity_ratio(losses, losses * 1.1, windows).value > 1.0
