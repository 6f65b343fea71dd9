"""Each row's loss over the epochs, and the queue of the rows that a run could not learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from residency.data.messages import Example, Message, Origin, Rendered
from residency.engine.adapters import ADAPTER
from residency.engine.engine import Engine
from residency.engine.optim import StepSettings
from residency.engine.speed import Speed
from residency.methods.order import order_of_epoch, rows_of_step
from residency.methods.row_losses import FILE, by_row, hardest, note_losses, write_hard_rows
from residency.records import HardRows, RunFolder
from tests.conftest import tiny_llama
from tests.numerics.test_sft_equals_plain import LORA

COUNT, BATCH = 60, 8
WRONG = {7, 31}


def pattern_rows() -> list[Rendered]:
    """Every row follows one rule, that its answer is one of three by its question, but for those in WRONG."""
    rows = []
    for i in range(COUNT):
        kind = i % 3
        answer = 50 + (kind + 1) % 3 * 10 if i in WRONG else 50 + kind * 10
        ids = np.array([3, 10 + kind, 100 + i % 7, answer, answer + 1], dtype=np.int32)
        rows.append(Rendered(ids, np.arange(5) >= 3, Origin("train.jsonl", i + 1)))
    return rows


def examples() -> list[Example]:
    turns = (Message(role="user", content="Write to anna.koch@gmail.com"), Message(role="assistant", content="Done."))
    return [Example(Origin("train.jsonl", i + 1), turns) for i in range(COUNT)]


def train(run: RunFolder, speed: Speed, steps: int) -> None:
    rows = pattern_rows()
    engine = Engine(tiny_llama(), speed=speed)
    engine.add_adapter(ADAPTER, LORA, seed=0)
    for step in range(steps):
        batch = [rows[i] for i in rows_of_step(step, BATCH, COUNT, seed=0)]
        loss = engine.forward_backward({ADAPTER: batch})[ADAPTER]
        engine.step({ADAPTER: StepSettings(5e-3)})
        note_losses(run, step, batch, loss.by_row)


@pytest.mark.parametrize("fused", [False, True])
def test_rows_that_break_the_rule_are_the_queue(tmp_path: Path, fused: bool) -> None:
    run = RunFolder(tmp_path)
    train(run, Speed(fused=fused), steps=20)
    found = write_hard_rows(run, pattern_rows(), examples(), seed=0)
    assert found is not None
    assert {row.row for row in found.rows} == {f"train.jsonl:{i + 1}" for i in WRONG}
    assert (found.rows_met, found.epochs) == (COUNT, 3)
    assert found.rows[0].text == "Write to [EMAIL] -> Done."
    assert [loss is None for loss in found.rows[0].losses][:2] == [False, False]
    assert run.read("hard_rows.json", HardRows) == found


def test_a_step_done_again_after_a_resume_replaces_its_losses(tmp_path: Path) -> None:
    run, rows = RunFolder(tmp_path), pattern_rows()[:4]
    for step in (0, 1, 2, 1):
        note_losses(run, step, rows, np.full(4, 2.0 + step))
    assert np.fromfile(run / FILE, "<f4").reshape(3, 4)[:, 0].tolist() == [1.0, 1.5, 2.0]


def test_losses_come_back_by_row_and_epoch() -> None:
    flat = np.concatenate([order_of_epoch(epoch, 5, seed=3) + 1.0 for epoch in (0, 1)])[:8]
    losses, _ = by_row(flat.astype("<f4"), 5, seed=3)
    assert losses[0].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert int(np.isfinite(losses[1]).sum()) == 3


def test_a_row_that_was_learned_late_is_none_of_them() -> None:
    excess = np.random.default_rng(0).normal(0, 0.1, (3, 100))
    excess[:, 4] = 3.0, 3.1, 2.9
    excess[:, 9] = 5.0, 1.0, 0.0
    assert hardest(excess).tolist() == [4]


def test_few_rows_make_no_queue(tmp_path: Path) -> None:
    assert write_hard_rows(RunFolder(tmp_path), pattern_rows(), examples(), seed=0) is None
