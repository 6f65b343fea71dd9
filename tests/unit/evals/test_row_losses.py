"""Rows that were seen again and again and not learned come back, the most suspicious first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from residency.data.messages import Origin, Rendered
from residency.evals.row_losses import review_training, suspicion, unlearned_rows
from residency.methods.sft import rows_of_step
from residency.records import RowLosses, RunFolder, Unlearned

ROWS, BATCH = 100, 10


def seen(epochs: int, bad: set[int], hard: set[int] = frozenset()) -> list[RowLosses]:  # type: ignore[assignment]
    """Losses fall from 3 towards 0.2 for all rows but `bad`, which stay near 3, and `hard`, which fall from 5."""
    noise = np.random.default_rng(0)
    records = []
    for step in range(epochs * ROWS // BATCH):
        rows = rows_of_step(step, BATCH, ROWS, seed=0)
        usual = 0.2 + 2.8 * float(np.exp(-step / 8))
        losses = [3.0 if row in bad else usual + (2.5 * usual if row in hard else 0) for row in rows]
        records.append(RowLosses(step=step + 1, rows=rows, losses=[x * float(noise.lognormal(0, 0.1)) for x in losses]))
    return records


def test_rows_that_stay_hard_are_found() -> None:
    queue, judged = unlearned_rows(seen(3, bad={17, 63}), ROWS)
    assert judged == ROWS
    assert set(queue) == {17, 63}


def test_a_hard_row_that_is_learned_is_not_in_the_queue() -> None:
    queue, _ = unlearned_rows(seen(3, bad={17}, hard={63}), ROWS)
    assert queue == [17]


def test_rows_that_came_early_are_not_blamed_for_it() -> None:
    records = seen(2, bad=set())
    excess, _, _ = suspicion(records, ROWS)
    first, last = records[0].rows, records[9].rows
    assert abs(excess[first].mean() - excess[last].mean()) < 0.6  # their losses differ by 1.8 in the first epoch


def test_one_pass_over_the_rows_judges_nothing() -> None:
    assert unlearned_rows(seen(1, bad={17}), ROWS) == ([], 0)
    assert unlearned_rows([], ROWS) == ([], 0)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def test_the_queue_is_written_with_origin_losses_and_text(run: RunFolder) -> None:
    for record in seen(3, bad={17}):
        run.append("row_losses.jsonl", record)
    rows = [Rendered(np.arange(i, i + 3, dtype=np.int32), np.ones(3, bool), Origin("a.jsonl", i)) for i in range(ROWS)]
    found = review_training(run, rows, lambda ids: " ".join(map(str, ids)))
    assert found == run.read("unlearned.json", Unlearned)
    assert found.rows[0].origin == "a.jsonl:17"
    assert found.rows[0].text == "17 18 19"
    assert len(found.rows[0].losses) == 3
    assert found.rows[0].excess > 1
    (event,) = run.events()
    assert event.kind == "unlearned"
    assert "a.jsonl:17" in event.message


def test_losses_after_the_step_of_a_resumed_run_are_forgotten(run: RunFolder) -> None:
    for record in seen(1, bad=set()):
        run.append("row_losses.jsonl", record)
    run.keep_metrics(4)
    assert [record.step for record in run.row_losses()] == [1, 2, 3, 4]
