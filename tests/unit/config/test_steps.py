from __future__ import annotations

import pytest

from residency.config.model import Train
from residency.config.steps import is_due, total_steps

SETTINGS = {"epochs": 3.0, "batch_size": 8, "micro_batch_tokens": 100, "learning_rate": 1e-3, "eval_every_steps": 1,
            "save_every_steps": 1}  # fmt: skip


def settings(**changes: object) -> Train[float]:
    return Train.model_validate(SETTINGS | changes)


@pytest.mark.parametrize(
    ("changes", "rows", "steps"),
    [
        ({}, 80, 30),
        ({}, 81, 31),
        ({"epochs": 0.5}, 80, 5),
        ({"max_steps": 7}, 80, 7),
        ({"max_steps": 70}, 80, 30),
        ({}, 1, 1),
    ],
)
def test_steps_follow_from_epochs_unless_they_are_bounded(changes: dict[str, object], rows: int, steps: int) -> None:
    assert total_steps(settings(**changes), rows) == steps


def test_a_whole_number_of_steps_comes_round() -> None:
    assert [step for step in range(1, 10) if is_due(3, step, 4, 10)] == [3, 6, 9]


@pytest.mark.parametrize(
    ("batch_size", "rows", "ends"),
    [(5, 10, [2, 4, 6, 8]), (4, 10, [3, 5, 8]), (10, 10, [1, 2, 3, 4, 5, 6, 7, 8]), (25, 10, [1, 2, 3, 4, 5, 6, 7, 8])],
)
def test_an_epoch_ends_with_the_step_that_sees_its_last_row(batch_size: int, rows: int, ends: list[int]) -> None:
    assert [step for step in range(1, 9) if is_due("epoch", step, batch_size, rows)] == ends
