"""The engine's loss and gradients are those of a plain transformers + PEFT loop, however the rows are batched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from residency.data.messages import Rendered
from residency.engine.engine import FULL, Engine
from residency.engine.offload import HostMemory
from residency.engine.optim import StepSettings
from residency.engine.speed import Speed
from tests.conftest import random_rows, rows_with_a_shared_start, tiny_llama

NAMES = ("first", "second", "third")
LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")


def plain_loss(model: LlamaForCausalLM, rows: Sequence[Rendered]) -> torch.Tensor:
    """One row at a time, full logits, the mean over all trained tokens."""
    total, count = torch.zeros(()), 0
    for row in rows:
        logits = model(torch.from_numpy(row.input_ids).long()[None]).logits[0, :-1]
        targets = torch.from_numpy(row.input_ids).long()[1:]
        trained = torch.from_numpy(row.trained)[1:]
        total = total + F.cross_entropy(logits[trained], targets[trained], reduction="sum")
        count += int(trained.sum())
    return total / count


def plain_gradients(
    rows: Sequence[Rendered], config: LoraConfig | None, **changes: int
) -> tuple[float, dict[str, torch.Tensor]]:
    model = tiny_llama(**changes)
    if config is not None:
        torch.manual_seed(1)
        model = get_peft_model(model, config, adapter_name="one")
    loss = plain_loss(model, rows)
    loss.backward()
    return loss.item(), {n.replace(".one.", "."): p.grad for n, p in model.named_parameters() if p.grad is not None}


def engine_gradients(
    batches: Sequence[Sequence[Rendered]], config: LoraConfig | None, **settings: object
) -> tuple[float, dict[str, torch.Tensor]]:
    engine = Engine(tiny_llama(), **settings)  # type: ignore[arg-type]
    name = "one" if config else FULL
    if config:
        engine.add_adapter("one", config, seed=1)
    else:
        engine.train_all_weights()
    losses = [engine.forward_backward({name: batch})[name] for batch in batches]
    tokens = sum(loss.tokens for loss in losses)
    gradients = {
        n.replace(".one.", "."): p.grad / tokens for n, p in engine.model.named_parameters() if p.grad is not None
    }
    return sum(loss.total for loss in losses) / tokens, gradients


def assert_same(ours: tuple[float, dict[str, torch.Tensor]], plain: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert ours[0] == pytest.approx(plain[0], rel=1e-5)
    assert ours[1].keys() == plain[1].keys()
    for name, gradient in plain[1].items():
        torch.testing.assert_close(ours[1][name], gradient, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("config", [LORA, None], ids=["lora", "full"])
@pytest.mark.parametrize(
    ("batch_sizes", "settings"),
    [
        ([8], {}),
        ([1] * 8, {}),
        ([4, 4], {}),
        ([8], {"packing": False}),
        ([8], {"micro_batch_tokens": 50}),
        ([3, 5], {"micro_batch_tokens": 20}),
        ([8], {"share_prefix": False}),
    ],
    ids=["1x8", "8x1", "2x4", "unpacked", "small passes", "one row a pass", "nothing shared"],
)
@pytest.mark.parametrize("rows", [random_rows(8), rows_with_a_shared_start(8)], ids=["unlike rows", "shared start"])
def test_every_batching_gives_the_plain_loss_and_gradients(
    config: LoraConfig | None, batch_sizes: list[int], settings: dict[str, object], rows: list[Rendered]
) -> None:
    batches, start = [], 0
    for size in batch_sizes:
        batches.append(rows[start : start + size])
        start += size
    assert_same(engine_gradients(batches, config, **settings), plain_gradients(rows, config))


@pytest.mark.parametrize(
    "changes",
    [{"lora_dropout": 0.0, "use_dora": True}, {"target_modules": ["q_proj", "v_proj"]}, {"use_rslora": True}],
    ids=["dora", "q and v", "rslora"],
)
def test_other_kinds_of_lora_agree_too(changes: dict[str, object]) -> None:
    config = LoraConfig(**({"r": 4, "target_modules": "all-linear", "init_lora_weights": False} | changes))
    rows = random_rows(5)
    assert_same(engine_gradients([rows], config), plain_gradients(rows, config))


@pytest.mark.parametrize("config", [LORA, None], ids=["lora", "full"])
def test_layers_computed_again_keep_less_and_change_nothing(config: LoraConfig | None) -> None:
    results, kept = [], []
    for layers in (0, 2):
        sizes: dict[int, int] = {}

        def keep(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            results.append(engine_gradients([random_rows(8)], config, speed=Speed(layers_formed_again=layers)))
        kept.append(sum(sizes.values()))
    assert kept[1] < 0.7 * kept[0]
    assert results[0][0] == results[1][0]
    for name, gradient in results[0][1].items():
        assert torch.equal(results[1][1][name], gradient), name


@pytest.mark.parametrize("config", [LORA, None], ids=["lora", "full"])
def test_what_waits_in_the_hosts_memory_comes_back_as_it_was(
    config: LoraConfig | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = Counter[str]()
    for way in ("put", "take"):
        own = getattr(HostMemory, way)
        monkeypatch.setattr(HostMemory, way, lambda self, it, way=way, own=own: waiting.update([way]) or own(self, it))
    here, there = (
        engine_gradients([random_rows(8)], config, speed=Speed(layers_formed_again=2, offload=offload))
        for offload in (False, True)
    )
    assert waiting["put"] == waiting["take"] > 0
    assert here[0] == there[0]
    assert all(torch.equal(there[1][name], gradient) for name, gradient in here[1].items())


def test_several_adapters_in_one_pass_train_as_each_alone() -> None:
    rows = {name: random_rows(6, seed=seed) for seed, name in enumerate(NAMES)}
    together = Engine(tiny_llama(), micro_batch_tokens=128, speed=Speed(shared=True))
    for seed, name in enumerate(NAMES):
        together.add_adapter(name, LORA, seed=seed)
    for _ in range(3):
        settings = {name: StepSettings(1e-2 * (seed + 1)) for seed, name in enumerate(NAMES)}
        shared = together.forward_backward(rows)
        norms = together.step(settings)
    for seed, name in enumerate(NAMES):
        alone = Engine(tiny_llama())
        alone.add_adapter(name, LORA, seed=seed)
        for _ in range(3):
            loss = alone.forward_backward({name: rows[name]})[name]
            norm = alone.step({name: settings[name]})[name]
        assert shared[name].mean == pytest.approx(loss.mean, rel=1e-5)
        assert norms[name] == pytest.approx(norm, rel=1e-4)
        ours, theirs = together._trained[name].parameters, alone._trained[name].parameters
        for key in theirs:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-5)


def test_a_token_of_one_row_does_not_touch_another_row_of_the_pack() -> None:
    rows = random_rows(4)
    engine = Engine(tiny_llama())
    before = engine.logprobs(None, rows)
    rows[0].input_ids[1] = 7 if rows[0].input_ids[1] != 7 else 8
    after = engine.logprobs(None, rows)
    for one, other in zip(before[1:], after[1:], strict=True):
        assert (one.logprobs == other.logprobs).all()
    assert (before[0].logprobs != after[0].logprobs).any()
