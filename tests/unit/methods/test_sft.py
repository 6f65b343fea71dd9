from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residency.config.model import Train
from residency.data.messages import Rendered
from residency.engine.checkpoint import Checkpoints, Progress
from residency.engine.engine import FULL, Engine
from residency.engine.late import Loss
from residency.errors import TrainingError
from residency.methods.order import rows_of_step
from residency.methods.sft import require_finite, require_no_explosion, train
from residency.records import RunFolder
from tests.conftest import random_rows, tiny_llama

SETTINGS = {"epochs": 3.0, "batch_size": 8, "micro_batch_tokens": 100, "learning_rate": 1e-3, "eval_every_steps": 1,
            "save_every_steps": 1}  # fmt: skip


def settings(**changes: object) -> Train[float]:
    return Train.model_validate(SETTINGS | changes)


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


def test_overfitting_has_a_badge_at_every_evaluation_and_stops_with_the_best_weights(tmp_path: Path) -> None:
    """Random answers can be learned by heart, and nothing else."""
    rows, held_out, run = random_rows(8), random_rows(8, seed=1), RunFolder(tmp_path)
    engine = Engine(tiny_llama())
    engine.train_all_weights()
    wanted = settings(epochs=60, learning_rate=3e-3, eval_every_steps=4, save_every_steps=1000, patience=50)
    outcome = train(engine, FULL, rows, held_out, wanted, run)
    measured = [metric for metric in run.metrics() if metric.split == "eval"][1:]
    badges = [metric.badge for metric in measured]
    assert badges[0] in ("OK", "WATCH")
    assert badges[-2:] == ["OVERFIT", "OVERFIT"]
    assert all(metric.train_loss is not None and metric.train_loss < metric.loss for metric in measured)
    assert [event.kind for event in run.events() if event.level == "warning"] == ["overfit"]
    assert outcome.stopped_early
    scores = engine.logprobs(FULL, held_out)
    loss = -sum(float(one.logprobs.sum()) for one in scores) / sum(len(one.logprobs) for one in scores)
    assert loss == pytest.approx(min(metric.loss for metric in measured), rel=1e-4)


def test_the_numbers_of_a_step_are_read_when_the_device_has_the_next_one(tmp_path: Path) -> None:
    run, engine = RunFolder(tmp_path), Engine(tiny_llama())
    engine.train_all_weights()
    known: list[int] = []
    hand_over = engine.forward_backward

    def watched(batches: Mapping[str, Sequence[Rendered]]) -> dict[str, Loss]:
        known.append(len(run.metrics()))
        return hand_over(batches)

    engine.forward_backward = watched  # type: ignore[method-assign]
    outcome = train(engine, FULL, random_rows(8), [], settings(eval_every_steps=2, save_every_steps=1000), run)
    assert known == [0, 0, 2]  # steps 2 and 3 are measured after, and nothing is left open then
    assert [metric.step for metric in run.metrics()] == [1, 2, 3]
    assert outcome.progress.rng == Checkpoints(run, 1).newest()[0].rng  # type: ignore[index]
