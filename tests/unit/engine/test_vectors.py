"""A step over vectors is torch's AdamW step over the parameters, which keep their places in them."""

from __future__ import annotations

import torch
from torch import nn

from residency.engine.optim import StepSettings, adamw, step_sizes
from residency.engine.vectors import as_vectors, step, take_over

SHAPES = [(3, 4), (5,), (2, 2)]
SETTINGS = StepSettings(1e-2, weight_decay=0.1, max_grad_norm=1.0)


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def gradients(number: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    return [torch.randn(shape, generator=generator) * 3 for shape in SHAPES]


def plain_step(trained: list[nn.Parameter], optimizer: torch.optim.AdamW, number: int) -> torch.Tensor:
    for parameter, gradient in zip(trained, gradients(number), strict=True):
        parameter.grad = gradient / 7
    norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
    step_sizes(optimizer, SETTINGS)
    optimizer.step()
    return norm


def test_five_steps_are_those_of_torch_and_its_own_go_on_from_there() -> None:
    ours, theirs = parameters(), parameters()
    optimizer, other = adamw(ours), adamw(theirs)
    plain_step(ours, optimizer, 0)
    plain_step(theirs, other, 0)
    vectors = as_vectors(optimizer)
    for number in range(1, 6):
        for parameter, gradient in zip(ours, gradients(number), strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(gradient)
        norm = step(optimizer, vectors, SETTINGS, torch.tensor(1e-2), torch.tensor(1 / 7))
        torch.testing.assert_close(norm, plain_step(theirs, other, number))
    for trained, one in ((ours, optimizer), (theirs, other)):
        plain_step(trained, one, 6)
        assert {float(state["step"]) for state in one.state.values()} == {7.0}
    for one, another in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, another)


def test_state_from_elsewhere_is_taken_over() -> None:
    trained = parameters()
    optimizer = adamw(trained)
    vectors = as_vectors(optimizer)
    vectors.steps.fill_(3)
    moments = [torch.randn(shape) for shape in SHAPES]
    for parameter, moment in zip(trained, moments, strict=True):
        optimizer.state[parameter] = {"step": torch.tensor(9.0), "exp_avg": moment.clone(), "exp_avg_sq": moment.abs()}
    take_over(optimizer, vectors)
    assert vectors.steps.tolist() == [9.0] * len(SHAPES)
    torch.testing.assert_close(vectors.moments[0], torch.cat([moment.flatten() for moment in moments]))
    optimizer.state.clear()
    take_over(optimizer, vectors)
    assert vectors.steps.count_nonzero() == vectors.moments[1].count_nonzero() == 0


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    trained = parameters()
    optimizer = adamw(trained)
    vectors = as_vectors(optimizer)
    before = vectors.values.clone()
    vectors.gradients[4] = float("inf")
    norm = step(optimizer, vectors, SETTINGS, torch.tensor(1e-2), torch.tensor(1.0))
    assert not norm.isfinite()
    assert torch.equal(vectors.values, before)
    assert vectors.steps.count_nonzero() == 0
