"""What we generate is what transformers' own `generate` gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    DynamicCache,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MistralConfig,
    MistralForCausalLM,
)

from residency.engine.answers import answers_cache
from residency.engine.engine import Engine
from residency.engine.sampling import Sampled, SamplingSettings, common_prefix
from tests.conftest import tiny_llama

SHARED = list(range(20, 40))
SHAPE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
                         "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 512,
                         "initializer_range": 0.1}  # fmt: skip


def ragged(count: int, *, shared: Sequence[int] = (), seed: int = 0, longest: int = 25) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [[*shared, *random.integers(3, 300, random.integers(1, longest)).tolist()] for _ in range(count)]


def by_transformers(
    model: Any, prompts: list[list[int]], new_tokens: int, stop_ids: tuple[int, ...] = ()
) -> list[list[int]]:
    """One prompt at a time, so that nothing is padded; without the stop token."""
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False,
                             eos_token_id=list(stop_ids) or None, pad_token_id=0)  # fmt: skip
        new = out[0, len(prompt) :].tolist()
        answers.append(new[:-1] if new[-1] in stop_ids else new)
    return answers


def greedy(model: Any, prompts: list[list[int]], new_tokens: int = 12, **settings: Any) -> list[Sampled]:
    return Engine(model).sample(None, prompts, SamplingSettings(new_tokens, **settings))


@pytest.mark.parametrize("shared", [(), SHARED], ids=["nothing shared", "shared start"])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_greedy_answers_equal_transformers(shared: Sequence[int], batch_size: int) -> None:
    prompts = ragged(7, shared=shared)
    ours = greedy(tiny_llama(), prompts, batch_size=batch_size)
    assert [one.token_ids for one in ours] == by_transformers(tiny_llama(), prompts, 12)
    assert not any(one.finished for one in ours)


@pytest.mark.parametrize("shared", [(), SHARED], ids=["nothing shared", "shared start"])
@pytest.mark.parametrize("window", [8, 100], ids=["past the window", "inside the window"])
@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3"])
def test_so_do_those_of_models_that_look_back_a_window_only(shared: Sequence[int], window: int, family: str) -> None:
    def make() -> Any:
        torch.manual_seed(0)
        if family == "mistral":
            return MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=window)).eval()
        own = {"head_dim": 16, "sliding_window": window, "layer_types": ["sliding_attention", "full_attention"]}
        if family == "gemma2":  # bounds its scores, which torch's own attention does not
            return Gemma2ForCausalLM(Gemma2Config(**SHAPE, **own, attn_logit_softcapping=2.0)).eval()
        return Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, **own)).eval()

    prompts = ragged(7, shared=shared)
    assert [one.token_ids for one in greedy(make(), prompts)] == by_transformers(make(), prompts, 12)


def test_what_all_prompts_begin_with_is_held_once() -> None:
    start = DynamicCache(config=tiny_llama().config)
    tiny_llama()(torch.tensor([SHARED]), past_key_values=start)
    [layer, _] = answers_cache(start).layers
    own = [torch.randn(7, *start.layers[0].keys.shape[1:2], 1, start.layers[0].keys.shape[3]) for _ in range(2)]
    for _ in range(5):
        keys, _ = layer.update(*own)
    assert layer.start[0].shape[::2] == (1, len(SHARED))
    assert keys.shape[::2] == (7, 5)
    assert layer.get_seq_length() == len(SHARED) + 5


def test_a_stop_token_ends_an_answer_and_is_not_part_of_it() -> None:
    prompts = ragged(6, shared=SHARED)
    free = greedy(tiny_llama(), prompts, 20)
    stop_ids = (free[0].token_ids[4], free[3].token_ids[7])
    ours = greedy(tiny_llama(), prompts, 20, stop_ids=stop_ids)
    assert [one.token_ids for one in ours] == by_transformers(tiny_llama(), prompts, 20, stop_ids)
    assert ours[0].finished
    assert [one.finished for one in ours] == [len(one.token_ids) < 20 for one in ours]


def test_equal_prompts_and_one_prompt_work_too() -> None:
    [alone] = greedy(tiny_llama(), [SHARED])
    assert greedy(tiny_llama(), [SHARED] * 3) == [alone] * 3
    assert greedy(tiny_llama(), []) == []


@pytest.mark.parametrize("shared", [(), SHARED], ids=["nothing shared", "shared start"])
def test_a_prompt_that_is_asked_several_times_passes_through_the_model_once(shared: Sequence[int]) -> None:
    model, prompts = tiny_llama(), [prompt for prompt in ragged(3, shared=shared) for _ in range(4)]
    passed: list[int] = []
    model.register_forward_pre_hook(lambda _, args, named: passed.append(named["input_ids"].numel()), with_kwargs=True)
    ours = greedy(model, prompts, 1)
    assert sum(passed) < 2 * sum(map(len, prompts[::4]))
    assert ours == greedy(tiny_llama(), prompts, 1, batch_size=1)
    answers = [one.token_ids for one in greedy(tiny_llama(), prompts)]
    assert answers == by_transformers(tiny_llama(), prompts, 12)


def test_a_temperature_draws_and_the_seed_decides() -> None:
    prompts = ragged(4)
    one, same, other = (greedy(tiny_llama(), prompts, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_what_is_drawn_depends_on_no_other_prompt() -> None:
    prompts = ragged(7)
    drawn = [greedy(tiny_llama(), prompts, temperature=1.0, seed=-1, batch_size=size) for size in (1, 3, 32)]
    assert drawn[0] == drawn[1] == drawn[2]


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    prompts = ragged(4)
    assert greedy(tiny_llama(), prompts, temperature=1.0, top_p=1e-6) == greedy(tiny_llama(), prompts)
    logits = tiny_llama()(torch.tensor([prompts[0]])).logits[0, -1]
    probabilities, order = logits.softmax(0).sort(descending=True)
    kept = set(order[: int((probabilities.cumsum(0) < 0.3).sum()) + 1].tolist())
    engine = Engine(tiny_llama())
    settings = SamplingSettings(1, temperature=1.0, top_p=0.3, seed=1, batch_size=64)
    first = {one.token_ids[0] for one in engine.sample(None, prompts[:1] * 64, settings)}
    assert first <= kept
    assert len(first) > 1


def test_the_common_prefix_leaves_a_token_of_each_prompt() -> None:
    assert common_prefix([[1, 2, 3], [1, 2, 4, 5]]) == 2
    assert common_prefix([[1, 2, 3], [1, 2, 3]]) == 2
    assert common_prefix([[1, 2], [1, 2, 3]]) == 1
    assert common_prefix([[1], [2]]) == 0
