from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from residency.engine import loss as ours
from residency.engine.loss import linear_cross_entropy, logits_cross_entropy


@pytest.mark.parametrize("rows", [1, 5, 20])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_loss_and_gradients_are_those_of_cross_entropy_in_double_precision(
    rows: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "CHUNK_ROWS", 8)
    torch.manual_seed(0)
    hidden, targets = torch.randn(rows, 16, requires_grad=True), torch.randint(0, 50, (rows,))
    head = torch.nn.Linear(16, 50, bias=False)
    exact_hidden, exact_weight = (t.detach().double().requires_grad_() for t in (hidden, head.weight))

    total, losses, correct = linear_cross_entropy(hidden, head, targets)
    (total * scale).backward()
    logits = exact_hidden @ exact_weight.T
    exact = F.cross_entropy(logits, targets, reduction="none")
    (exact.sum() * scale).backward()

    torch.testing.assert_close(losses.double(), exact.detach(), rtol=1e-5, atol=1e-5)
    assert total.item() == pytest.approx(exact.sum().item(), rel=1e-6)
    assert correct.tolist() == (logits.argmax(dim=1) == targets).tolist()
    torch.testing.assert_close(hidden.grad.double(), exact_hidden.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(head.weight.grad.double(), exact_weight.grad, rtol=1e-5, atol=1e-6)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, head = torch.randn(4, 8, requires_grad=True), torch.nn.Linear(8, 20, bias=False).requires_grad_(False)
    linear_cross_entropy(hidden, head, torch.arange(4))[0].backward()
    assert hidden.grad is not None
    assert head.weight.grad is None


def test_nothing_to_predict_is_a_loss_of_zero() -> None:
    hidden = torch.randn(0, 8, requires_grad=True)
    total, losses, _ = linear_cross_entropy(
        hidden, torch.nn.Linear(8, 20, bias=False), torch.zeros(0, dtype=torch.long)
    )
    total.backward()
    assert total.item() == 0.0
    assert len(losses) == 0


def test_heads_that_do_more_than_a_product_give_the_same() -> None:
    torch.manual_seed(0)
    hidden, targets, head = torch.randn(6, 8), torch.randint(0, 20, (6,)), torch.nn.Linear(8, 20, bias=False)
    for one, other in zip(
        linear_cross_entropy(hidden, head, targets), logits_cross_entropy(head(hidden), targets), strict=True
    ):
        torch.testing.assert_close(one, other)
