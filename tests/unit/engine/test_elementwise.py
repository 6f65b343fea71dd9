"""Each function agrees with autograd over the plain formula; each Triton kernel agrees with its function."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F

from residency.engine import elementwise as ew

TOKENS, WIDTH, HEADS, KV_HEADS, HEAD_DIM = 5, 96, 3, 1, 32


@pytest.fixture(params=["torch", "triton"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "triton":
        if importlib.util.find_spec("triton") is None:
            pytest.skip("triton is not installed")
        if os.environ.get("TRITON_INTERPRET") != "1":
            pytest.skip("set TRITON_INTERPRET=1 to run the kernels on a CPU")
    else:
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return request.param


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradient(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf, grad)[0]


def assert_quantized(rows: torch.Tensor, scales: torch.Tensor, x: torch.Tensor) -> None:
    """e4m3 has three bits behind the point. Triton's interpreter does not round to it as the card does."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return
    assert ((rows.float() * scales - x).abs() <= 2**-4 * x.abs() + 2**-9 * scales).all()


def test_rms_norm(kernels: str) -> None:
    x, weight, grad, residual = (random(TOKENS, WIDTH), random(WIDTH, seed=1), random(TOKENS, WIDTH, seed=2),
                                 random(TOKENS, WIDTH, seed=3))  # fmt: skip

    def plain(x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (WIDTH,), weight, 1e-5)

    total, y, inverse, rows, scales = ew.rms_norm(x, weight, 1e-5, True)
    assert total is x
    torch.testing.assert_close(y, plain(x))
    assert_quantized(rows, scales, y)
    expected = gradient(plain, x, grad) + residual
    again = grad.clone()
    torch.testing.assert_close(ew.rms_norm_backward(again, x, weight, inverse, residual), expected)
    torch.testing.assert_close(again, y)


def test_a_sum_is_normed_and_room_is_left_beside_what_comes_out(kernels: str) -> None:
    x, wide, weight, grad = (random(TOKENS, WIDTH), random(TOKENS, WIDTH + 32, seed=1), random(WIDTH, seed=2),
                             random(TOKENS, WIDTH, seed=3))  # fmt: skip
    normed = ew.rms_norm(x, weight, 1e-5, delta=wide, room=16)
    torch.testing.assert_close(normed.total, x + wide[:, :WIDTH])
    assert normed.rows.shape == (TOKENS, WIDTH + 16)
    torch.testing.assert_close(normed.rows[:, :WIDTH], F.rms_norm(normed.total, (WIDTH,), weight, 1e-5))
    tight = ew.rms_norm_backward(grad.clone(), x, weight, normed.inverse, wide[:, :WIDTH].contiguous())
    roomy = ew.rms_norm_backward(grad.clone(), x, weight, normed.inverse, wide, room=16)
    assert roomy.shape == (TOKENS, WIDTH + 16)
    torch.testing.assert_close(roomy[:, :WIDTH], tight)


def test_swiglu_of_rows_that_lie_further_apart(kernels: str) -> None:
    wide, grad = random(64, 2 * WIDTH + 16), random(64, WIDTH, seed=1)
    gate_up, beside = wide[:, : 2 * WIDTH], wide[:, 2 * WIDTH :].clone()
    tight, tight_grad = gate_up.clone(), grad.clone()
    h, *_ = ew.swiglu(gate_up, None, None, False, room=32)
    assert h.shape == (64, WIDTH + 32)
    torch.testing.assert_close(h[:, :WIDTH], ew.swiglu(tight, None, None, False)[0])
    for one, other in ((gate_up, grad), (tight, tight_grad)):
        ew.swiglu_backward(one, other, None, None, None, None, False)
    torch.testing.assert_close(gate_up, tight)
    torch.testing.assert_close(grad, tight_grad)
    assert torch.equal(wide[:, 2 * WIDTH :], beside)


def test_rope_turns_forth_and_back(kernels: str) -> None:
    qkv = random(TOKENS, (HEADS + 2 * KV_HEADS) * HEAD_DIM)
    angle = random(TOKENS, HEAD_DIM // 2, seed=1)
    cos, sin = torch.cat([angle, angle], 1).cos(), torch.cat([angle, angle], 1).sin()

    def heads(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x.unflatten(1, (-1, HEAD_DIM)).split([HEADS, KV_HEADS, KV_HEADS], dim=1)

    q, k, v = heads(qkv.clone())
    expected = []
    for x in (q, k):
        turned = torch.cat([-x[..., HEAD_DIM // 2 :], x[..., : HEAD_DIM // 2]], dim=2)
        expected.append(x * cos[:, None] + turned * sin[:, None])
    turned = qkv.clone()
    ew.rope(*heads(turned), turned, cos, sin)
    torch.testing.assert_close(turned, torch.cat([x.flatten(1) for x in (*expected, v)], 1))
    back = torch.empty_like(turned)
    ew.rope(*(x.clone() for x in heads(turned)), back, cos, sin, inverse=True)
    torch.testing.assert_close(back, qkv)


@pytest.mark.parametrize("adapters", [0, 1, 2])
def test_swiglu_with_the_updates_on_both_sides(kernels: str, adapters: int) -> None:
    tokens, rank = 64, 16
    gate_up, grad = random(tokens, 2 * WIDTH), random(tokens, WIDTH, seed=1)
    inner, b, a, grad_inner_next = (
        random(tokens, rank, seed=2), random(adapters, 2 * WIDTH, rank, seed=3),
        random(adapters, rank, WIDTH, seed=4), random(tokens, rank, seed=5),
    )  # fmt: skip
    leaf = gate_up.clone().requires_grad_()
    gate, up = (leaf + (ew.batched(inner, b.mT) if adapters else 0)).chunk(2, dim=1)
    h = F.silu(gate) * up
    whole_grad = grad + (ew.batched(grad_inner_next, a) if adapters else 0)
    [expected] = torch.autograd.grad(h, leaf, whole_grad)
    forward = (inner, b) if adapters else (None, None)
    backward = (inner, b, grad_inner_next, a) if adapters else (None, None, None, None)

    ours, rows, scales = ew.swiglu(gate_up, *forward, True)
    torch.testing.assert_close(ours, h.detach(), rtol=1e-4, atol=1e-4)
    assert_quantized(rows, scales, ours)
    rows, scales = ew.swiglu_backward(gate_up, grad, *backward, True)
    torch.testing.assert_close(gate_up, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grad, h.detach(), rtol=1e-4, atol=1e-4)
    assert_quantized(rows, scales, expected)


def test_cross_entropy_and_places_that_only_fill_up(kernels: str) -> None:
    logits, targets = random(TOKENS, 9000), torch.tensor([3, 8999, -1, 0, 8500])
    logits[1, 8999] = 9.0
    losses = F.cross_entropy(logits, targets, reduction="none", ignore_index=-1)
    expected = gradient(
        lambda x: F.cross_entropy(x, targets, reduction="none", ignore_index=-1), logits, torch.ones(TOKENS)
    )
    ours, correct = ew.cross_entropy(logits, targets, True)
    torch.testing.assert_close(ours, losses)
    assert correct.tolist() == [False, True, False, False, False]
    torch.testing.assert_close(logits, expected)


def test_quantized_rows(kernels: str) -> None:
    x = random(TOKENS, WIDTH)
    assert_quantized(*ew.quantize_rows(x), x)
