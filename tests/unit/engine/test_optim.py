from __future__ import annotations

import pytest
import torch

from residency.engine.optim import Schedule, StepSettings, adamw, learning_rate_at, step_sizes

SCHEDULES: tuple[Schedule, ...] = ("linear", "cosine", "constant", "wsd")


def rates(schedule: Schedule, total: int = 100, warmup_share: float = 0.1) -> list[float]:
    return [learning_rate_at(step, total, 1.0, schedule, warmup_share) for step in range(total)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_rate_rises_linearly_then_stands_at_its_peak(schedule: Schedule) -> None:
    assert rates(schedule)[:11] == pytest.approx([(step + 1) / 11 for step in range(10)] + [1.0])
    assert max(rates(schedule)) == 1.0


@pytest.mark.parametrize(
    ("schedule", "middle", "last"),
    [("linear", 0.5, 1 / 90), ("cosine", 0.5, 0.0003), ("constant", 1, 1), ("wsd", 1, 0.05)],
)
def test_then_it_falls_as_the_schedule_says(schedule: Schedule, middle: float, last: float) -> None:
    assert rates(schedule)[55] == pytest.approx(middle)
    assert rates(schedule)[99] == pytest.approx(last, rel=0.02)


def test_wsd_decays_over_the_last_fifth() -> None:
    assert rates("wsd")[79:82] == pytest.approx([1.0, 1.0, 0.95])


def test_warm_up_is_twenty_steps_at_most() -> None:
    assert learning_rate_at(20, 10_000, 1.0, "constant", 0.1) == 1.0


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("total", [1, 2, 5])
def test_even_the_shortest_run_changes_something_at_every_step(schedule: Schedule, total: int) -> None:
    assert all(rate > 0 for rate in rates(schedule, total, 0.03))


def test_settings_reach_the_optimizer() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = adamw([weight])
    step_sizes(optimizer, StepSettings(learning_rate=0.1, weight_decay=0.5))
    weight.grad = torch.tensor([3.0])
    optimizer.step()
    assert weight.item() == pytest.approx(1.0 - 0.1 * 0.5 - 0.1)
