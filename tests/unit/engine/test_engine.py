"""What the five verbs promise beyond their numbers (those: tests/numerics)."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model_state_dict

from residency.engine.engine import FULL, Engine
from residency.engine.optim import StepSettings
from residency.engine.speed import Speed
from residency.errors import ResourceError
from tests.conftest import random_rows, tiny_llama

LORA = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
DROPOUT = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5, task_type="CAUSAL_LM")
ALLOCATOR_ERROR = (
    "[enforce fail at alloc_cpu.cpp:128] data. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4294967296 bytes. Error code 12 (Cannot allocate memory)"
)


def lora_engine(config: LoraConfig = LORA, **settings: Any) -> Engine:
    engine = Engine(tiny_llama(), **settings)
    engine.add_adapter("one", config, seed=1)
    return engine


def weights(engine: Engine, name: str = "one") -> dict[str, torch.Tensor]:
    return {key: p.detach().clone() for key, p in engine._trained[name].parameters.items()}


def gradients(engine: Engine) -> dict[str, torch.Tensor]:
    return {key: p.grad.clone() for key, p in engine._trained["one"].parameters.items() if p.grad is not None}


def test_logprobs_are_those_of_the_plain_model() -> None:
    rows = random_rows(6)
    scores = Engine(tiny_llama(), micro_batch_tokens=64).logprobs(None, rows)
    for row, score in zip(rows, scores, strict=True):
        ids = torch.from_numpy(row.input_ids).long()
        with torch.no_grad():
            logits = tiny_llama()(ids[None]).logits[0, :-1]
        trained = torch.from_numpy(row.trained)[1:]
        plain = -F.cross_entropy(logits[trained], ids[1:][trained], reduction="none")
        np.testing.assert_allclose(score.logprobs, plain, rtol=1e-4, atol=1e-5)
        assert score.correct.tolist() == (logits[trained].argmax(1) == ids[1:][trained]).tolist()


def test_chosen_tokens_are_as_likely_as_in_the_plain_model() -> None:
    rows = random_rows(6)
    random = np.random.default_rng(0)
    tokens = [random.integers(0, 300, (int(row.trained.sum()), 3)) for row in rows]
    found = Engine(tiny_llama(), micro_batch_tokens=64).choices(None, rows, tokens)
    for row, asked, one in zip(rows, tokens, found, strict=True):
        with torch.no_grad():
            logits = tiny_llama()(torch.from_numpy(row.input_ids).long()[None]).logits[0, :-1]
        plain = logits[torch.from_numpy(row.trained)[1:]].log_softmax(dim=-1).gather(1, torch.from_numpy(asked))
        np.testing.assert_allclose(one, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [LORA, DROPOUT], ids=["plain", "dropout"])
def test_the_base_is_the_untuned_model_whatever_was_added(config: LoraConfig) -> None:
    rows, engine = random_rows(4), lora_engine(config)
    engine.forward_backward({"one": rows})
    engine.step({"one": StepSettings(1e-2)})
    before, after = Engine(tiny_llama()).logprobs(None, rows), engine.logprobs(None, rows)
    tuned = engine.logprobs("one", rows)
    for one, other, third in zip(before, after, tuned, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=1e-5, atol=1e-6)
        assert not np.allclose(one.logprobs, third.logprobs)


def test_an_adapter_on_the_head_counts_though_another_without_came_first() -> None:
    rows, on_head = random_rows(4), LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    alone, second = (Engine(tiny_llama(tie_word_embeddings=False)) for _ in range(2))
    second.add_adapter("one", LORA, seed=1)
    for engine in (alone, second):
        engine.add_adapter("head", on_head, seed=2)
    for one, other in zip(alone.logprobs("head", rows), second.logprobs("head", rows), strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=1e-5, atol=1e-6)
    base = Engine(tiny_llama(tie_word_embeddings=False)).logprobs(None, rows)
    assert not np.allclose(base[0].logprobs, second.logprobs("head", rows)[0].logprobs)


def test_dropout_is_for_training_alone() -> None:
    rows, engine = random_rows(4), lora_engine(DROPOUT)
    for _ in range(2):
        losses = [engine.forward_backward({"one": rows})["one"].total for _ in range(2)]
        engine.step({"one": StepSettings(1e-2)})
    assert losses[0] != losses[1]
    state = torch.get_rng_state()
    first, second = engine.logprobs("one", rows), engine.logprobs("one", rows)
    assert all((a.logprobs == b.logprobs).all() for a, b in zip(first, second, strict=True))
    assert torch.equal(state, torch.get_rng_state()), "measuring must not move the random numbers"


def test_an_adapter_starts_as_its_seed_says_whatever_came_before() -> None:
    alone = lora_engine()
    second = Engine(tiny_llama())
    second.add_adapter("zero", LORA, seed=7)
    torch.rand(100)
    second.add_adapter("one", LORA, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(weights(alone).values(), weights(second).values(), strict=True))


def test_gradients_that_are_no_numbers_leave_the_weights_and_the_next_step_as_they_are() -> None:
    rows, engine, clean = random_rows(4), lora_engine(), lora_engine()
    engine.forward_backward({"one": rows})
    next(iter(engine._trained["one"].parameters.values())).grad[0] = float("nan")
    before = weights(engine)
    assert not np.isfinite(engine.step({"one": StepSettings(1e-2)})["one"])
    assert all(torch.equal(before[key], value) for key, value in weights(engine).items())
    for one in (engine, clean):
        one.forward_backward({"one": rows})
        norm = one.step({"one": StepSettings(1e-2)})["one"]
        assert np.isfinite(norm)
    assert all(torch.equal(weights(clean)[key], value) for key, value in weights(engine).items())


def test_the_gradient_is_clipped_to_the_norm_asked_for() -> None:
    rows, engine = random_rows(4), lora_engine()
    engine.forward_backward({"one": rows})
    raw = {key: g / engine._trained["one"].tokens for key, g in gradients(engine).items()}
    norm = torch.cat([g.flatten() for g in raw.values()]).norm().item()
    seen: list[float] = []
    engine._trained["one"].optimizer.register_step_pre_hook(
        lambda optimizer, args, kwargs: seen.append(
            torch.cat([g.flatten() for g in gradients(engine).values()]).norm().item()
        )
    )
    assert engine.step({"one": StepSettings(1e-2, max_grad_norm=norm / 4)})["one"] == pytest.approx(norm, rel=1e-4)
    assert seen == pytest.approx([norm / 4], rel=1e-3)


# ---- memory


def fail_on_passes_longer_than(engine: Engine, tokens: int) -> None:
    """As torch's CPU allocator does, in the middle of a pass."""

    def refuse(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if output.shape[1] > tokens:
            raise RuntimeError(ALLOCATOR_ERROR)

    engine._base.base_model.layers[1].register_forward_hook(refuse, with_kwargs=True)


def test_when_memory_runs_out_smaller_passes_give_the_same_gradients() -> None:
    first, second = random_rows(8), random_rows(8, seed=1)
    free, told = lora_engine(micro_batch_tokens=256), []
    tight = lora_engine(micro_batch_tokens=256, on_smaller_micro_batch=told.append)
    fail_on_passes_longer_than(tight, 80)
    for engine in (free, tight):
        losses = [engine.forward_backward({"one": rows})["one"] for rows in (first, second)]
        if engine is free:
            expected = losses
    [half, quarter] = told
    assert quarter == half // 2 <= 80 < half, "halved, from the pass that failed, until it fits"
    assert [loss.tokens for loss in losses] == [loss.tokens for loss in expected]
    assert [loss.total for loss in losses] == pytest.approx([loss.total for loss in expected], rel=1e-5)
    for key, gradient in gradients(free).items():
        torch.testing.assert_close(gradients(tight)[key], gradient, rtol=1e-4, atol=1e-5)
    assert tight._trained["one"].tokens == free._trained["one"].tokens


def test_what_was_added_before_memory_ran_out_is_not_lost() -> None:
    first, second = random_rows(2), random_rows(8, seed=1)
    free, tight = lora_engine(micro_batch_tokens=512), lora_engine(micro_batch_tokens=512)
    fail_on_passes_longer_than(tight, 100)
    for engine in (free, tight):
        engine.forward_backward({"one": first})
        engine.forward_backward({"one": second})
    for key, gradient in gradients(free).items():
        torch.testing.assert_close(gradients(tight)[key], gradient, rtol=1e-4, atol=1e-5)


def test_measuring_halves_its_passes_too() -> None:
    rows = random_rows(8)
    tight = lora_engine(micro_batch_tokens=256)
    fail_on_passes_longer_than(tight, 80)
    for one, other in zip(tight.logprobs("one", rows), lora_engine().logprobs("one", rows), strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("packing", [True, False])
def test_a_single_row_that_does_not_fit_is_an_error(packing: bool) -> None:
    engine = lora_engine(packing=packing)
    fail_on_passes_longer_than(engine, 3)
    for verb in (
        lambda: engine.forward_backward({"one": random_rows(2)}),
        lambda: engine.logprobs("one", random_rows(2)),
    ):
        with pytest.raises(ResourceError, match="single row") as caught:
            verb()
        assert caught.value.code == "out_of_memory"


def test_the_pass_that_failed_is_not_held_in_memory() -> None:
    engine = lora_engine(micro_batch_tokens=256)
    fail_on_passes_longer_than(engine, 80)
    engine.forward_backward({"one": random_rows(8)})
    engine.step({"one": StepSettings(1e-3)})
    gc.collect()
    alive = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.dim() == 3 and t.requires_grad]
    assert alive == []


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    engine = lora_engine()
    engine._base.base_model.layers[0].register_forward_pre_hook(
        lambda *_: (_ for _ in ()).throw(RuntimeError("shapes"))
    )
    with pytest.raises(RuntimeError, match="shapes"):
        engine.forward_backward({"one": random_rows(2)})


# ---- save and restore


@pytest.mark.parametrize("name", ["one", FULL])
def test_training_goes_on_from_a_saved_state_to_the_bit(name: str, tmp_path: Path) -> None:
    def make(seed: int) -> Engine:
        engine = Engine(tiny_llama(seed if name == FULL else 0))
        if name == FULL:
            engine.train_all_weights()
        else:
            engine.add_adapter("one", LORA, seed=seed)
        return engine

    def train(engine: Engine, steps: range) -> None:
        for step in steps:
            engine.forward_backward({name: random_rows(4, seed=step)})
            engine.step({name: StepSettings(1e-2, weight_decay=0.1)})

    whole = make(1)
    train(whole, range(3))
    whole.save(name, tmp_path)
    train(whole, range(3, 6))
    resumed = make(2)
    train(resumed, range(7, 9))
    resumed.restore(name, tmp_path)
    train(resumed, range(3, 6))
    assert weights(whole, name).keys() == weights(resumed, name).keys()
    for key, value in weights(whole, name).items():
        assert torch.equal(value, weights(resumed, name)[key]), key


def test_one_of_several_adapters_is_saved_and_restored_alone(tmp_path: Path) -> None:
    engine = lora_engine()
    engine.add_adapter("two", LORA, seed=2)
    engine.save("one", tmp_path)
    two = weights(engine, "two")
    engine.forward_backward({"one": random_rows(4), "two": random_rows(4)})
    engine.step({"one": StepSettings(1e-2), "two": StepSettings(1e-2)})
    changed = weights(engine, "two")
    engine.restore("one", tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(weights(engine).values(), weights(lora_engine()).values(), strict=True)
    )
    assert all(torch.equal(changed[key], value) for key, value in weights(engine, "two").items())
    assert not all(torch.equal(two[key], value) for key, value in changed.items())
    assert get_peft_model_state_dict(engine.model, adapter_name="one", save_embedding_layers=False)


def test_an_adapter_with_dropout_keeps_its_dropout_beside_a_plain_one() -> None:
    rows, engine = random_rows(4), lora_engine()
    engine.add_adapter("two", DROPOUT, seed=2)
    for _ in range(2):
        losses = [engine.forward_backward({"two": rows})["two"].total for _ in range(2)]
        engine.step({"two": StepSettings(1e-2)})
    assert losses[0] != losses[1]


@pytest.mark.parametrize("fused", [False, True])
def test_an_adapter_that_is_dropped_leaves_the_others_as_if_it_had_never_been(fused: bool) -> None:
    def trained(drop: bool) -> list[float]:
        engine, rows, losses = Engine(tiny_llama(), speed=Speed(fused=fused)), random_rows(4), []
        for number, name in enumerate(("one", "two", "three") if drop else ("two",)):
            engine.add_adapter(name, LORA, seed=number if drop else 1)
        for step in range(6):
            if drop and step == 3:
                engine.drop_adapter("one")
                engine.drop_adapter("three")
            names = ("one", "two", "three") if drop and step < 3 else ("two",)
            losses.append(engine.forward_backward(dict.fromkeys(names, rows))["two"].mean)
            engine.step({name: StepSettings(1e-2) for name in names})
        return losses

    assert trained(drop=True) == pytest.approx(trained(drop=False), rel=1e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_a_snapshot_is_put_back_to_the_bit(fused: bool) -> None:
    engine, rows = Engine(tiny_llama(), speed=Speed(fused=fused)), random_rows(4)
    engine.add_adapter("one", LORA)

    def steps() -> list[float]:
        losses = []
        for _ in range(3):
            losses.append(engine.forward_backward({"one": rows})["one"].mean)
            engine.step({"one": StepSettings(1e-2)})
        return losses

    steps()
    before = engine.snapshot("one")
    first = steps()
    engine.put_back({"one": before})
    assert steps() == first


@pytest.mark.parametrize("fused", [False, True])
def test_all_weights_can_be_read_and_set_as_one_vector(fused: bool) -> None:
    engine, rows = Engine(tiny_llama(), speed=Speed(fused=fused)), random_rows(4)
    engine.add_adapter("one", LORA)

    def loss() -> float:
        return -sum(float(one.logprobs.sum()) for one in engine.logprobs("one", rows))

    before, first = loss(), engine.weights("one").clone()
    assert torch.equal(first, torch.cat([p.detach().flatten() for p in engine.parameters("one").values()]))
    engine.forward_backward({"one": rows})
    engine.step({"one": StepSettings(1e-2)})
    assert loss() != before
    engine.set_weights("one", first)
    assert loss() == before


def test_an_adapter_that_lost_its_loss_changes_nothing_of_one_that_comes_after() -> None:
    rows, engine, fresh = random_rows(4), lora_engine(), Engine(tiny_llama())
    with torch.no_grad():
        for parameter in engine.parameters("one").values():
            parameter.fill_(torch.inf)
    engine.forward_backward({"one": rows})
    for one in (engine, fresh):
        one.add_adapter("two", LORA, seed=2)
    ours, theirs = (one.forward_backward({"two": rows})["two"].by_row for one in (engine, fresh))
    np.testing.assert_array_equal(ours, theirs)
