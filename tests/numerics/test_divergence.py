"""Divergence from the base: equal to the full KL where nothing is left out, its gradient equal to autograd's, and the
engine's pull equal to a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig
from torch import nn

from residency.data.messages import Rendered
from residency.engine.batch import Segment
from residency.engine.divergence import Distributions, Remembered, divergence, top_k
from residency.engine.engine import FULL, Engine
from residency.engine.optim import StepSettings
from tests.conftest import random_rows, tiny_llama

LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")


def bucketed(logits: torch.Tensor, base: Distributions) -> torch.Tensor:
    """KL over the kept tokens and one bucket for the rest, by autograd alone; shape (tokens,)."""
    ids, tail = torch.from_numpy(base.token_ids).long(), torch.from_numpy(base.log_tail)
    kept_p = torch.from_numpy(base.logprobs)
    log_q = logits.log_softmax(dim=1)
    outside = torch.ones_like(log_q, dtype=torch.bool).scatter(1, ids, False)
    log_outside = log_q.masked_fill(~outside, float("-inf")).logsumexp(dim=1)
    return (kept_p.exp() * (kept_p - log_q.gather(1, ids))).sum(dim=1) + tail.exp() * (tail - log_outside)


@pytest.mark.parametrize("with_head", [True, False])
def test_value_and_gradient_equal_autograd(with_head: bool) -> None:
    torch.manual_seed(0)
    head = nn.Linear(16, 300, bias=False)
    base = top_k(torch.randn(40, 16) * 2, head) if with_head else top_k(torch.randn(40, 300), None)
    outputs = torch.randn(40, 16 if with_head else 300, requires_grad=True)
    total, each = divergence(outputs, head if with_head else None, base)
    total.backward()
    ours, ours_head = outputs.grad.clone(), head.weight.grad
    outputs.grad = head.weight.grad = None
    expected = bucketed(head(outputs) if with_head else outputs, base)
    expected.sum().backward()
    torch.testing.assert_close(each, expected.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours, outputs.grad, rtol=1e-4, atol=1e-6)
    if with_head:
        torch.testing.assert_close(ours_head, head.weight.grad, rtol=1e-4, atol=1e-5)


def test_the_bucket_bounds_the_full_divergence_from_below_and_is_it_where_the_vocabulary_is_small() -> None:
    torch.manual_seed(0)
    for vocabulary, exact in ((50, True), (400, False)):
        base_logits, logits = torch.randn(30, vocabulary) * 2, torch.randn(30, vocabulary) * 2
        _, each = divergence(logits, None, top_k(base_logits, None))
        full = F.kl_div(logits.log_softmax(1), base_logits.log_softmax(1), reduction="none", log_target=True).sum(1)
        if exact:
            torch.testing.assert_close(each, full, rtol=1e-4, atol=1e-5)
        assert (each <= full + 1e-5).all()


def test_a_model_does_not_diverge_from_itself() -> None:
    engine = Engine(tiny_llama())
    rows = random_rows(6)
    remembered = [Remembered(*pair) for pair in zip(rows, engine.distributions(None, rows), strict=True)]
    for row, each in zip(rows, engine.divergences(None, remembered), strict=True):
        assert each.shape == (row.trained.sum(),)
        assert np.abs(each).max() < 1e-5


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("micro_batch_tokens", [2048, 30])
def test_pulling_equals_a_plain_loop_over_task_and_replay(kind: str, micro_batch_tokens: int) -> None:
    """The gradient of mean task loss + weight * mean divergence, by autograd over whole logits."""
    task, replay = random_rows(4), random_rows(3, seed=1)
    engine = Engine(tiny_llama(), micro_batch_tokens=micro_batch_tokens)
    remembered = [Remembered(*pair) for pair in zip(replay, engine.distributions(None, replay), strict=True)]
    if kind == "lora":
        engine.add_adapter("one", LORA, seed=1)
    else:
        engine.train_all_weights()
        with torch.no_grad():  # away from the base, where there is a divergence
            next(iter(engine.parameters(FULL).values())).add_(0.02)
    name = "one" if kind == "lora" else FULL
    tokens = engine.forward_backward({name: task})[name].tokens
    pulled = engine.pull(name, remembered, 0.5).mean
    ours = {key: p.grad / tokens for key, p in engine.parameters(name).items()}
    for parameter in engine.parameters(name).values():
        parameter.grad = None

    def logits(row: Rendered) -> torch.Tensor:
        ids = torch.from_numpy(row.input_ids).long()
        engine._plain.routing.segments = (Segment(name if kind == "lora" else None, 0, len(ids)),)
        everywhere = engine._base(
            input_ids=ids[None], position_ids=torch.arange(len(ids))[None], use_cache=False
        ).logits
        return everywhere[0, :-1][torch.from_numpy(row.trained)[1:]]

    targets = [torch.from_numpy(row.input_ids).long()[torch.from_numpy(row.trained)] for row in task]
    losses = [F.cross_entropy(logits(row), target, reduction="none") for row, target in zip(task, targets, strict=True)]
    kl = torch.cat([bucketed(logits(one.row), one.base) for one in remembered]).mean()
    (torch.cat(losses).mean() + 0.5 * kl).backward()
    assert pulled == pytest.approx(kl.item(), rel=1e-4)
    assert pulled > 1e-3
    for key, parameter in engine.parameters(name).items():
        torch.testing.assert_close(ours[key], parameter.grad, rtol=1e-4, atol=1e-6)


def test_pulling_alone_brings_a_model_back() -> None:
    engine, rows = Engine(tiny_llama()), random_rows(8)
    remembered = [Remembered(*pair) for pair in zip(rows, engine.distributions(None, rows), strict=True)]
    engine.add_adapter("one", LORA, seed=1)
    found = []
    for _ in range(20):
        found.append(engine.pull("one", remembered, 1.0).mean)
        engine.step({"one": StepSettings(3e-3)})
    assert found[-1] < 0.3 * found[0]
