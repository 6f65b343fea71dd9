"""Training passes written out give the loss, gradients and steps of transformers' own passes under autograd."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from residency.config.model import Model
from residency.data.messages import Rendered
from residency.engine import products
from residency.engine.batch import needed_length
from residency.engine.divergence import Remembered
from residency.engine.engine import Engine
from residency.engine.fast_batch import passes
from residency.engine.fp8 import Fp8Weight
from residency.engine.fused import FusedDecoder, Pass
from residency.engine.optim import StepSettings
from residency.engine.sampling import SamplingSettings
from residency.engine.speed import Speed
from residency.models.load import load_model
from tests.conftest import random_rows, tiny_llama
from tests.numerics.test_sft_equals_plain import LORA, NAMES, assert_same, plain_gradients

FUSED = Speed(fused=True)
KERNELS = Speed(fused=True, kernels=True)
"""On a CPU their twins in plain torch."""
DROPOUT = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5, task_type="CAUSAL_LM")


def fused_gradients(engine: Engine, batches: Sequence[Sequence[Rendered]]) -> tuple[float, dict[str, torch.Tensor]]:
    losses = [engine.forward_backward({"one": batch})["one"] for batch in batches]
    tokens = sum(loss.tokens for loss in losses)
    assert engine._fast is not None
    engine._fast.decoder.adapters.collect("one")
    gradients = {
        n.replace(".one.", "."): p.grad / tokens for n, p in engine.model.named_parameters() if p.grad is not None
    }
    return sum(loss.total for loss in losses) / tokens, gradients


def fused_engine(speed: Speed = FUSED, **settings: int | bool) -> Engine:
    engine = Engine(tiny_llama(), speed=speed, **settings)  # type: ignore[arg-type]
    engine.add_adapter("one", LORA, seed=1)
    return engine


@pytest.mark.parametrize(
    ("batch_sizes", "settings"),
    [([8], {}), ([4, 4], {}), ([8], {"packing": False}), ([8], {"micro_batch_tokens": 50}),
     ([3, 5], {"micro_batch_tokens": 20})],
    ids=["1x8", "2x4", "unpacked", "small passes", "one row a pass"],
)  # fmt: skip
@pytest.mark.parametrize("speed", [FUSED, KERNELS], ids=["own kernels", "kernels of packages"])
def test_every_batching_gives_the_plain_loss_and_gradients(
    batch_sizes: list[int], settings: dict[str, int], speed: Speed
) -> None:
    rows = random_rows(8)
    batches, start = [], 0
    for size in batch_sizes:
        batches.append(rows[start : start + size])
        start += size
    assert_same(fused_gradients(fused_engine(speed, **settings), batches), plain_gradients(rows, LORA))


@pytest.mark.parametrize("copied", [0.0, 1.0], ids=["one base", "a copy for each"])
@pytest.mark.parametrize("speed", [FUSED, KERNELS], ids=["own kernels", "kernels of packages"])
def test_an_adapter_moves_into_the_border_of_the_weights_and_out_again(
    speed: Speed, copied: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone it lies there, beside others only in a copy of a small base, and no move changes it or the base."""
    monkeypatch.setattr(products, "COPIES_SHARE", copied)
    rows, settings = random_rows(6), {"one": StepSettings(1e-2)}
    engine, plain = fused_engine(speed), fused_engine(Speed(fused=False))
    base = [score.logprobs for score in plain.logprobs(None, rows)]
    for others in ([], ["two", "three"], []):
        for one in (engine, plain):
            for name in [name for name in one._trained if name != "one" and name not in others]:
                one.drop_adapter(name)
            for seed, name in enumerate(others):
                one.add_adapter(name, LORA, seed=seed)
        losses = [one.forward_backward({"one": rows})["one"].mean for one in (engine, plain)]
        norms = [one.step(settings)["one"] for one in (engine, plain)]
        assert engine._fast is not None
        for product in engine._fast.decoder.products:
            assert product.stack is not None
            assert product.bordered is not None
            assert (product.stack.a._base is product.bordered) == (not others or copied == 1.0)
            assert len(product.bordered) == (1 + len(others) if copied else 1)
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        assert norms[0] == pytest.approx(norms[1], rel=1e-4)
        for ours, theirs in zip(engine.logprobs(None, rows), base, strict=True):
            np.testing.assert_allclose(ours.logprobs, theirs, atol=1e-5)


def test_a_base_with_a_border_is_stored_once() -> None:
    engine = fused_engine(KERNELS)
    engine.forward_backward({"one": random_rows(2)})
    assert engine._fast is not None
    for product in engine._fast.decoder.products:
        assert product.bordered is not None
        stored = product.bordered.untyped_storage().data_ptr()
        assert {one.weight.untyped_storage().data_ptr() for one in product.linears} == {stored}


@pytest.mark.parametrize("speed", [Speed(fused=False), FUSED], ids=["plain", "fused"])
def test_each_row_has_its_own_share_of_the_loss(speed: Speed) -> None:
    rows, others = random_rows(7), random_rows(3, seed=5)
    engine = fused_engine(speed, micro_batch_tokens=60)
    engine.add_adapter("two", LORA, seed=2)
    losses = engine.forward_backward({"one": rows, "two": others})
    for name, batch in (("one", rows), ("two", others)):
        own = [-score.logprobs.sum() for score in engine.logprobs(name, batch)]
        assert losses[name].by_row == pytest.approx(np.array(own), rel=1e-4)
        assert losses[name].by_row.sum() == pytest.approx(losses[name].total, rel=1e-5)


def test_documents_of_one_length_lie_evenly() -> None:
    rows = [row for row in random_rows(40, longest=40, seed=3) if len(row) >= 36][:2]
    rows = [Rendered(r.input_ids[:36], r.trained[:36], r.origin) for r in rows]
    engine = fused_engine(micro_batch_tokens=80)
    assert_same(fused_gradients(engine, [rows]), plain_gradients(rows, LORA))


@pytest.mark.parametrize("offload", [False, True], ids=["on the device", "in the host's memory"])
def test_layers_formed_again_change_nothing(offload: bool) -> None:
    rows = random_rows(6)
    kept, again = (
        fused_gradients(fused_engine(Speed(fused=True, layers_formed_again=n, offload=offload)), [rows]) for n in (0, 2)
    )
    assert kept[0] == again[0]
    assert all(torch.equal(kept[1][name], again[1][name]) for name in kept[1])


def test_only_some_linears_have_an_adapter() -> None:
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False)
    rows = random_rows(5)
    engine = Engine(tiny_llama(), speed=FUSED)
    engine.add_adapter("one", config, seed=1)
    assert_same(fused_gradients(engine, [rows]), plain_gradients(rows, config))


def test_biases_and_untied_heads() -> None:
    def model() -> Qwen2ForCausalLM:
        torch.manual_seed(0)
        made = Qwen2ForCausalLM(
            Qwen2Config(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                        num_key_value_heads=2, vocab_size=300, tie_word_embeddings=False, initializer_range=0.1)
        ).eval()  # fmt: skip
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_()
        return made

    rows = random_rows(5)
    results = []
    for speed in (Speed(fused=False), FUSED):
        engine = Engine(model(), speed=speed)
        engine.add_adapter("one", LORA, seed=1)
        assert (engine._fast is not None) == bool(speed.fused), engine.reasons
        loss = engine.forward_backward({"one": rows})["one"]
        norm = engine.step({"one": StepSettings(1e-2)})["one"]
        results.append((loss.mean, norm, engine.logprobs("one", rows)[3].logprobs))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-5)
    assert results[1][1] == pytest.approx(results[0][1], rel=1e-4)
    assert results[1][2] == pytest.approx(results[0][2], rel=1e-3)


@pytest.mark.parametrize("speed", [FUSED, KERNELS], ids=["own kernels", "kernels of packages"])
def test_biases_of_the_feed_forward_part(speed: Speed) -> None:
    def model() -> LlamaForCausalLM:
        made = tiny_llama(mlp_bias=True)
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_()
        return made

    rows, losses = random_rows(5), []
    for how in (Speed(fused=False), speed):
        torch.manual_seed(0)
        engine = Engine(model(), speed=how)
        engine.add_adapter("one", LORA, seed=1)
        assert (engine._fast is not None) == bool(how.fused), engine.reasons
        losses.append(engine.forward_backward({"one": rows})["one"].mean)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_norms_of_each_head_as_in_qwen3() -> None:
    def model() -> Qwen3ForCausalLM:
        torch.manual_seed(0)
        made = Qwen3ForCausalLM(
            Qwen3Config(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, head_dim=24,
                        num_key_value_heads=2, vocab_size=300, initializer_range=0.1)
        ).eval()  # fmt: skip
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if "norm" in name:
                    parameter.uniform_(0.5, 1.5)
        return made

    rows, results = random_rows(6), []
    for speed in (Speed(fused=False), FUSED, KERNELS, Speed(fused=True, layers_formed_again=1)):
        engine = Engine(model(), speed=speed)
        engine.add_adapter("one", LORA, seed=1)
        assert (engine._fast is not None) == bool(speed.fused), engine.reasons
        loss = engine.forward_backward({"one": rows})["one"]
        norm = engine.step({"one": StepSettings(1e-2)})["one"]
        results.append((loss.mean, norm, engine.logprobs("one", rows)[3].logprobs))
    for loss, norm, logprobs in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-5)
        assert norm == pytest.approx(results[0][1], rel=1e-5)
        np.testing.assert_allclose(logprobs, results[0][2], atol=1e-5)


@pytest.mark.parametrize("copied", [0.0, 1.0], ids=["one base", "a copy for each"])
def test_several_adapters_train_as_each_alone_with_the_plain_passes(
    copied: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "COPIES_SHARE", copied)
    rows = {name: random_rows(6, seed=seed) for seed, name in enumerate(NAMES)}
    settings = {name: StepSettings(1e-2 * (seed + 1)) for seed, name in enumerate(NAMES)}
    together = Engine(tiny_llama(), micro_batch_tokens=128, speed=Speed(fused=True, shared=True))
    for seed, name in enumerate(NAMES):
        together.add_adapter(name, LORA, seed=seed)
    for _ in range(3):
        shared = together.forward_backward(rows)
        norms = together.step(settings)
    for seed, name in enumerate(NAMES):
        alone = Engine(tiny_llama(), speed=Speed(fused=False))
        alone.add_adapter(name, LORA, seed=seed)
        for _ in range(3):
            loss = alone.forward_backward({name: rows[name]})[name]
            norm = alone.step({name: settings[name]})[name]
        assert shared[name].mean == pytest.approx(loss.mean, rel=1e-5)
        assert (shared[name].tokens, shared[name].correct) == (loss.tokens, loss.correct)
        assert norms[name] == pytest.approx(norm, rel=1e-4)
        ours, theirs = together._trained[name].parameters, alone._trained[name].parameters
        for key in theirs:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("capacity", [128, 40])
def test_adapters_scored_together_are_scored_as_each_alone(capacity: int) -> None:
    engine, rows = fused_engine(micro_batch_tokens=capacity), random_rows(7)
    engine.add_adapters(["two", "three"], LORA, seed=2)
    for name, rate in (("one", 1e-2), ("three", 3e-2)):
        engine.forward_backward({name: rows})
        engine.step({name: StepSettings(rate)})
    for name, together in zip(("one", "three"), engine.logprobs_of_each(["one", "three"], rows), strict=True):
        for ours, alone in zip(together, engine.logprobs(name, rows), strict=True):
            np.testing.assert_allclose(ours.logprobs, alone.logprobs, atol=1e-5)
            np.testing.assert_array_equal(ours.correct, alone.correct)


def test_scores_of_an_adapter_and_of_the_base_are_the_plain_ones() -> None:
    rows = random_rows(6)
    fused, plain = fused_engine(), fused_engine(Speed(fused=False))
    for adapter in ("one", None):
        for ours, theirs in zip(fused.logprobs(adapter, rows), plain.logprobs(adapter, rows), strict=True):
            assert ours.logprobs == pytest.approx(theirs.logprobs, rel=1e-4)
            assert (ours.correct == theirs.correct).all()


@pytest.mark.parametrize("settings", [{}, {"micro_batch_tokens": 30}], ids=["one pass", "small passes"])
def test_the_pull_towards_the_base_is_the_plain_one(settings: dict[str, int]) -> None:
    task, replay = random_rows(5), random_rows(4, seed=1)
    norms, pulled, after = [], [], []
    for speed in (Speed(fused=False), FUSED):
        engine = fused_engine(speed, **settings)
        remembered = [Remembered(*pair) for pair in zip(replay, engine.distributions(None, replay), strict=True)]
        for _ in range(2):
            engine.forward_backward({"one": task})
            pulled.append(engine.pull("one", remembered, 0.5).mean)
            norms.append(engine.step({"one": StepSettings(1e-2, max_grad_norm=1.0)})["one"])
        after.append([each.mean() for each in engine.divergences("one", remembered)])
    assert pulled[0] > 1e-3
    assert norms[2:] == pytest.approx(norms[:2], rel=1e-4)
    assert pulled[2:] == pytest.approx(pulled[:2], rel=1e-4)
    assert after[1] == pytest.approx(after[0], rel=1e-3)


def test_a_pull_alone_makes_a_step_and_leaves_other_adapters_as_they_are() -> None:
    rows, engine = random_rows(4), fused_engine()
    engine.add_adapter("two", LORA, seed=2)
    remembered = [Remembered(*pair) for pair in zip(rows, engine.distributions(None, rows), strict=True)]
    before = engine.divergences("two", remembered)
    idle = [p.clone() for p in engine.parameters("one").values()]
    for _ in range(5):
        engine.pull("two", remembered, 1.0)
        engine.step({"one": StepSettings(1e-2), "two": StepSettings(1e-2)})
    assert np.mean([each.mean() for each in engine.divergences("two", remembered)]) < np.mean(np.concatenate(before))
    assert all(map(torch.equal, idle, engine.parameters("one").values()))


def test_a_scaled_adapter_is_what_trains_and_scores() -> None:
    rows, engine = random_rows(4), fused_engine()
    whole = {key: p.detach().clone() for key, p in engine.parameters("one").items() if "lora_B" in key}
    engine.scale("one", 0.0, whole, {})
    for ours, base in zip(engine.logprobs("one", rows), engine.logprobs(None, rows), strict=True):
        assert ours.logprobs == pytest.approx(base.logprobs, rel=1e-5)


def test_a_token_of_one_row_does_not_touch_another_row_of_the_pack() -> None:
    rows = random_rows(4)
    engine = fused_engine()
    before = engine.logprobs("one", rows)
    rows[0].input_ids[1] = 7 if rows[0].input_ids[1] != 7 else 8
    after = engine.logprobs("one", rows)
    for one, other in zip(before[1:], after[1:], strict=True):
        assert (one.logprobs == other.logprobs).all()
    assert (before[0].logprobs != after[0].logprobs).any()


def test_what_is_trained_is_what_is_sampled_saved_and_restored(tmp_path: Path) -> None:
    rows, settings = random_rows(6), {"one": StepSettings(1e-2)}
    engine = fused_engine()
    for _ in range(2):
        engine.forward_backward({"one": rows})
        engine.step(settings)
    engine.save("one", tmp_path)
    other = fused_engine()
    other.restore("one", tmp_path)
    for one in (engine, other):
        one.forward_backward({"one": rows})
        one.step(settings)
    prompt, greedy = [list(rows[0].input_ids[:5])], SamplingSettings(max_new_tokens=4)
    assert engine.sample("one", prompt, greedy) == other.sample("one", prompt, greedy)
    for name, parameter in engine._trained["one"].parameters.items():
        assert torch.equal(parameter, other._trained["one"].parameters[name])


def test_a_gradient_that_is_not_finite_changes_no_weight() -> None:
    engine = fused_engine()
    before = [p.clone() for p in engine._trained["one"].parameters.values()]
    engine.forward_backward({"one": random_rows(2)})
    assert engine._fast is not None
    engine._fast.decoder.products[0].stack.grad_a.fill_(float("nan"))  # type: ignore[union-attr]
    engine.step({"one": StepSettings(1e-2)})
    for old, new in zip(before, engine._trained["one"].parameters.values(), strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize("speed", [FUSED, KERNELS], ids=["own kernels", "kernels of packages"])
@pytest.mark.parametrize("ends", [0, 1, 2], ids=["all in e4m3", "but the first and last", "none left"])
def test_fp8_is_the_same_algebra(monkeypatch: pytest.MonkeyPatch, ends: int, speed: Speed) -> None:
    """With rounding to e4m3 switched off, the FP8 path is the plain path; layers in bf16 before and after it too."""
    monkeypatch.setattr(torch, "float8_e4m3fn", torch.float32)
    rows, speed = random_rows(6), replace(speed, fp8=True, first_last_layers_bf16=ends)
    engine = Engine(tiny_llama(num_hidden_layers=3), speed=speed)
    engine.add_adapter("one", LORA, seed=1)
    assert_same(fused_gradients(engine, [rows]), plain_gradients(rows, LORA, num_hidden_layers=3))


def test_the_first_and_last_layers_may_stay_as_they_are() -> None:
    engine = Engine(tiny_llama(num_hidden_layers=4), speed=Speed(fused=True, fp8=True, first_last_layers_bf16=1))
    engine.add_adapter("one", LORA, seed=1)
    assert engine._fast is not None
    held = [isinstance(layer.down.weight, Fp8Weight) for layer in engine._fast.decoder.layers]
    assert held == [False, True, True, False]
    assert engine.reasons["fp8"] == "asked for; layers at either end that stay in bf16: 1"


def test_fp8_stays_near(tmp_path: Path) -> None:
    rows = random_rows(6)
    loss, gradients = fused_gradients(fused_engine(Speed(fused=True, fp8=True)), [rows])
    expected, plain = plain_gradients(rows, LORA)
    assert loss == pytest.approx(expected, rel=1e-2)
    for name, gradient in plain.items():
        assert torch.cosine_similarity(gradients[name].flatten(), gradient.flatten(), dim=0) > 0.95, name


def test_a_base_in_nf4_gives_the_gradients_of_its_plain_passes(tmp_path: Path) -> None:
    tiny_llama(hidden_size=128, intermediate_size=256).save_pretrained(tmp_path)
    rows, results = random_rows(6), []
    for speed in (FUSED, Speed(fused=False)):
        model = load_model(Model(id=str(tmp_path)), dtype=torch.float32, device=torch.device("cpu"), quantize=True)
        engine = Engine(model, speed=speed)
        engine.add_adapter("one", deepcopy(LORA), seed=1)
        assert engine.speed.fused is speed.fused
        loss = engine.forward_backward({"one": rows})["one"]
        engine.step({"one": StepSettings(1e-2)})
        results.append((loss.mean, engine.logprobs("one", rows)))
    (fused_loss, fused_scores), (plain_loss, plain_scores) = results
    assert fused_loss == pytest.approx(plain_loss, rel=1e-5)
    for one, other in zip(fused_scores, plain_scores, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)


def test_an_fp8_base_is_stored_once() -> None:
    """The linears keep views of it, and the turned copy for the backward product is one for all weights."""
    engine = fused_engine(Speed(fused=True, fp8=True))
    assert engine._fast is not None
    for product in engine._fast.decoder.products:
        assert isinstance(product.weight, Fp8Weight)
        stored = product.weight.rows.untyped_storage().data_ptr()
        assert {one.weight.untyped_storage().data_ptr() for one in product.linears} == {stored}
    assert len({id(one.weight.workspace) for one in engine._fast.decoder.products}) == 1  # type: ignore[union-attr]


def test_on_a_cpu_the_plain_passes_are_chosen_and_each_reason_given() -> None:
    engine = fused_engine(Speed())
    assert engine._fast is None
    assert engine.speed == Speed(fused=False, graphs=False, kernels=False, shared=False)
    assert engine.reasons == {
        "fused": "transformers' passes serve a CPU as well",
        "fp8": "not asked for",
        "graphs": "needs a CUDA device",
        "kernels": "needs the fused passes",
        "compile": "not asked for",
    }


def test_full_fine_tuning_and_dropout_keep_the_plain_passes() -> None:
    engine = Engine(tiny_llama(), speed=FUSED)
    engine.train_all_weights()
    assert engine.reasons["fused"] == "what is trained is not plain LoRA on the layers' linears"
    engine = Engine(tiny_llama(), speed=FUSED)
    engine.add_adapter("one", DROPOUT)
    assert engine._fast is None


def test_few_rows_do_not_fill_a_large_pass_up() -> None:
    rows = random_rows(6)
    needed = sum(needed_length(row) for row in rows)
    [one] = passes({0: rows}, 65536, torch.device("cpu"))
    assert needed <= len(one.tensors.input_ids) <= 1.25 * needed + 16


def test_memory_that_runs_out_halves_the_pass_and_trains_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, settings = random_rows(8), {"one": StepSettings(1e-2)}
    plain, small = fused_engine(), fused_engine(micro_batch_tokens=512)
    whole = FusedDecoder.forward_backward

    def limited(self: FusedDecoder, one: Pass) -> tuple[torch.Tensor, torch.Tensor]:
        if len(one.input_ids) > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, one)

    replay = [Remembered(*pair) for pair in zip(rows, plain.distributions(None, rows), strict=True)]
    for _ in range(2):
        expected, pulled = plain.forward_backward({"one": rows})["one"].mean, plain.pull("one", replay, 1.0).mean
        norm = plain.step(settings)["one"]
        with monkeypatch.context() as patch:
            patch.setattr(FusedDecoder, "forward_backward", limited)
            assert small.forward_backward({"one": rows})["one"].mean == pytest.approx(expected, rel=1e-5)
            assert small.pull("one", replay, 1.0).mean == pytest.approx(pulled, rel=1e-4)
        assert small.step(settings)["one"] == pytest.approx(norm, rel=1e-4)
    assert small.micro_batch_tokens < 512
    for key, parameter in plain._trained["one"].parameters.items():
        torch.testing.assert_close(small._trained["one"].parameters[key], parameter, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("speed", [Speed(fused=False), FUSED], ids=["plain", "fused"])
def test_a_step_without_rows_changes_nothing(speed: Speed) -> None:
    engine, settings = fused_engine(speed), {"one": StepSettings(1e-2, weight_decay=0.1)}
    engine.forward_backward({"one": random_rows(2)})
    engine.step(settings)
    before = [p.clone() for p in engine._trained["one"].parameters.values()]
    assert engine.forward_backward({"one": []})["one"].mean == 0.0
    assert dict(engine.step(settings)) == {"one": 0.0}
    assert all(map(torch.equal, before, engine._trained["one"].parameters.values()))


@pytest.mark.parametrize("fp8", [False, True], ids=["fused", "fp8"])
@pytest.mark.parametrize("later", [LORA, DROPOUT], ids=["plain LoRA", "dropout"])
def test_an_adapter_added_between_loses_no_gradient(later: LoraConfig, fp8: bool) -> None:
    """One that the fused passes cannot train takes all back to the plain ones."""
    rows, settings = random_rows(4), {"one": StepSettings(1e-2)}
    alone, joined = (fused_engine(Speed(fused=True, fp8=fp8)) for _ in range(2))
    for engine in (alone, joined):
        engine.forward_backward({"one": rows[:2]})
    joined.add_adapter("two", later, seed=2)
    assert (joined._fast is None) == (later is DROPOUT)
    norms = []
    for engine in (alone, joined):
        engine.forward_backward({"one": rows[2:]})
        norms.append(engine.step(settings)["one"])
    assert norms[1] == pytest.approx(norms[0], rel=2e-2 if fp8 else 1e-4)
    idle = [p.clone() for p in joined._trained["two"].parameters.values()]
    joined.step({"one": StepSettings(1e-2), "two": StepSettings(1e-2)})
    assert all(map(torch.equal, idle, joined._trained["two"].parameters.values()))


def test_numbers_that_come_late_are_plain_numbers() -> None:
    engine = fused_engine()
    loss = engine.forward_backward({"one": random_rows(2)})["one"]
    norm = engine.step({"one": StepSettings(1e-3)})["one"]
    assert all(type(value) is float and math.isfinite(value) for value in (loss.total, loss.mean, norm))
    assert type(loss.correct) is int


def test_rows_without_a_trained_token_have_empty_scores() -> None:
    rows = random_rows(3)
    rows[1] = Rendered(rows[1].input_ids, np.zeros_like(rows[1].trained), rows[1].origin)
    fused, plain = fused_engine(), fused_engine(Speed(fused=False))
    lengths = [[len(score.logprobs) for score in engine.logprobs("one", rows)] for engine in (fused, plain)]
    assert lengths[0] == lengths[1]
    assert lengths[0][1] == 0
