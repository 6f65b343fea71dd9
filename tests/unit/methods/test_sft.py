from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residency.engine.checkpoint import Progress
from residency.errors import TrainingError
from residency.methods.sft import require_finite, require_no_explosion, rows_of_step


@given(count=st.integers(1, 50), batch_size=st.integers(1, 60), epochs=st.integers(1, 4), seed=st.integers(0, 3))
def test_each_epoch_sees_every_row_once(count: int, batch_size: int, epochs: int, seed: int) -> None:
    steps = -(-count * epochs // batch_size)
    seen = [row for step in range(steps) for row in rows_of_step(step, batch_size, count, seed)]
    for epoch in range(epochs):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_the_order_differs_by_epoch_and_seed_and_follows_from_them_alone() -> None:
    first, second = rows_of_step(0, 50, 50, 0), rows_of_step(1, 50, 50, 0)
    assert first != second
    assert first != rows_of_step(0, 50, 50, 1)
    assert first == rows_of_step(0, 50, 50, 0)


def test_the_last_step_of_an_epoch_goes_on_into_the_next() -> None:
    assert rows_of_step(1, 6, 10, 0)[4:] == rows_of_step(0, 20, 10, 0)[10:12]


def at(*losses: float, first: float = 2.0) -> Progress:
    return Progress(step=9, micro_batch_tokens=1, first_loss=first, recent_losses=losses)


def test_an_explosion_is_a_lasting_rise_not_one_bad_batch() -> None:
    require_no_explosion(at(2.0, 2.0, 6.0, 2.0, 2.0))
    require_no_explosion(at(9.0, 9.0, 9.0, 9.0))
    require_no_explosion(at(1.4, 1.4, 1.4, 1.4, 1.4, first=0.1))
    with pytest.raises(TrainingError, match=r"3\.50 over the last 5 steps, 2\.00 at the start"):
        require_no_explosion(at(3.0, 3.0, 3.5, 4.0, 4.0))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_an_error(value: float) -> None:
    with pytest.raises(TrainingError, match="at step 10") as caught:
        require_finite(value, at(), "loss")
    assert caught.value.code == "not_finite"
