"""Rows that were seen again and again and not learned come back, the most suspicious first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaForCausalLM

from residency import pipeline
from residency.config.load import parse_run
from residency.data.messages import Origin, Rendered
from residency.engine.engine import FULL, Engine
from residency.evals.row_losses import review_training, suspicion, unlearned_rows
from residency.methods.sft import rows_of_step
from residency.records import RowLosses, RunFolder, Unlearned
from tests.e2e.tiny import make_model_folder, rows, write_rows

ROWS, BATCH = 100, 10


def seen(epochs: int, bad: set[int], hard: set[int] = frozenset()) -> list[RowLosses]:  # type: ignore[assignment]
    """Losses fall from 3 towards 0.2 for all rows but `bad`, which stay near 3, and `hard`, which fall from 5."""
    noise = np.random.default_rng(0)
    records = []
    for step in range(epochs * ROWS // BATCH):
        chosen = rows_of_step(step, BATCH, ROWS, seed=0)
        usual = 0.2 + 2.8 * float(np.exp(-step / 8))
        losses = [3.0 if row in bad else usual + (2.5 * usual if row in hard else 0) for row in chosen]
        records.append(
            RowLosses(step=step + 1, rows=chosen, losses=[x * float(noise.lognormal(0, 0.1)) for x in losses])
        )
    return records


def test_rows_that_stay_hard_are_found() -> None:
    queue, judged = unlearned_rows(seen(3, bad={17, 63}), ROWS)
    assert judged == ROWS
    assert set(queue) == {17, 63}


def test_a_hard_row_that_is_learned_stands_behind_one_that_is_not() -> None:
    queue, _ = unlearned_rows(seen(3, bad={17}, hard={63}), ROWS)
    assert queue[0] == 17


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
    rendered = [
        Rendered(np.arange(i, i + 3, dtype=np.int32), np.ones(3, bool), Origin("a.jsonl", i)) for i in range(ROWS)
    ]
    found = review_training(run, rendered, lambda ids: " ".join(map(str, ids)))
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


def test_the_engine_gives_each_row_its_part_of_the_loss(
    make_model: Callable[..., LlamaForCausalLM], make_rows: Callable[..., list[Rendered]]
) -> None:
    engine = Engine(make_model(), micro_batch_tokens=64)
    engine.train_all_weights()
    some = make_rows(7)
    loss = engine.forward_backward({FULL: some})[FULL]
    expected = [-float(score.logprobs.sum()) for score in engine.logprobs(None, some)]
    assert loss.by_row == pytest.approx(expected, rel=1e-5)
    assert loss.by_row.sum() == pytest.approx(loss.total, rel=1e-5)


def test_a_run_leaves_each_rows_losses_and_its_report_shows_the_hard_ones(tmp_path: Path) -> None:
    train = rows(48)
    train[5]["messages"][1]["content"] = "fire"  # type: ignore[index]  # of blue, which is "sky" elsewhere
    model = make_model_folder(tmp_path / "model")
    config = parse_run({
        "name": "colours", "model": {"id": str(model)},
        "data": {"train": str(write_rows(tmp_path / "train.jsonl", train)), "eval": None},
        "adapter": {"kind": "full"}, "train": {"epochs": 8, "batch_size": 4, "learning_rate": 3e-3},
    }, source="test")  # fmt: skip
    record = pipeline.run(config, tmp_path / "runs")
    seen = record.row_losses()
    assert [each.step for each in seen] == list(range(1, 97))
    assert sorted(row for each in seen for row in each.rows) == sorted(list(range(48)) * 8)
    found = record.read("unlearned.json", Unlearned)
    assert found.judged == 48
    assert found.rows[0].origin.endswith("train.jsonl:6")
    assert "blue 5" in found.rows[0].text
    for page in ("report.html", "report.md"):
        assert "Rows the training could not learn" in (record / page).read_text()
