"""Each step and message of a run is told once, while it grows, is taken back by a resumed trainer, or is read anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from residency.config.model import Train
from residency.records import RunFolder
from residency.server.worker_follow import Follower, GrowingFile, Plan
from residency.server.worker_results import all_metrics, result_csv, step_message, step_metrics


def plan(**changes: Any) -> Plan:
    settings = {"epochs": 2.0, "batch_size": 5, "micro_batch_tokens": 64, "learning_rate": 1e-3,
                "eval_every_steps": "epoch", "save_every_steps": "epoch"} | changes  # fmt: skip
    return Plan(Train.model_validate(settings), {}, rows=10, held_out=3, adapter="lora")


PLAN = plan()
"""Four steps; the held-out loss is measured after the second and the fourth."""


def row(step: int, split: str = "train") -> dict[str, Any]:
    return {"step": step, "split": split, "loss": 1.0 / step, "token_accuracy": 0.5, "seconds": float(step)}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def write(run: RunFolder, *rows: dict[str, Any], name: str = "metrics.jsonl") -> None:
    with (run / name).open("a") as file:
        file.writelines(json.dumps(one) + "\n" for one in rows)


def steps(follower: Follower, told: int, *, over: bool = False) -> list[int]:
    return [step.train["step"] for step in follower.new_steps(told, PLAN, over=over)]


def test_a_growing_file_gives_each_whole_line_once(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    lines = GrowingFile(path)
    assert lines.new_lines() == []
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a"')
    assert lines.new_lines() == [{"a": 1}, {"a": 2}]
    assert lines.new_lines() == []
    with path.open("ab") as file:
        file.write(b": 3}\n")
    assert lines.new_lines() == [{"a": 3}]


def test_a_file_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n')
    lines = GrowingFile(path)
    lines.new_lines()
    (tmp_path / "aside").write_bytes(b'{"a": 1}\n{"a": 2}\n{"a": 3}\n')
    (tmp_path / "aside").replace(path)
    assert lines.new_lines() == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_a_step_is_told_at_once_unless_its_held_out_loss_is_still_to_come(run: RunFolder) -> None:
    follower = Follower(run)
    write(run, row(1), row(2))
    assert steps(follower, 0) == [1]
    assert steps(follower, 1) == []
    write(run, row(2, "eval"))
    [second] = follower.new_steps(1, PLAN, over=False)
    assert second.held_out == row(2, "eval")


def test_the_last_step_waits_for_its_held_out_loss_until_the_run_is_over(run: RunFolder) -> None:
    follower = Follower(run)
    write(run, row(3), row(4))
    assert steps(follower, 2) == [3]
    assert steps(follower, 3, over=True) == [4]


def test_steps_that_a_resumed_trainer_measures_again_are_not_told_again(run: RunFolder) -> None:
    follower = Follower(run)
    write(run, row(1), row(2), row(2, "eval"), row(3))
    assert steps(follower, 0) == [1, 2, 3]
    (run / "metrics.jsonl").unlink()
    write(run, row(1))
    assert steps(follower, 3) == []
    write(run, row(2), row(2, "eval"), row(3))
    assert steps(follower, 3) == []
    write(run, row(4), row(4, "eval"))
    assert steps(follower, 3) == [4]


def test_another_reader_goes_on_where_the_first_one_was(run: RunFolder) -> None:
    write(run, row(1), row(2), row(2, "eval"), row(3))
    assert steps(Follower(run), 2) == [3]


def test_messages_are_counted(run: RunFolder) -> None:
    first = Follower(run)
    write(run, {"kind": "a"}, {"kind": "b"}, name="events.jsonl")
    assert [one["kind"] for one in first.new_messages(0)] == ["a", "b"]
    write(run, {"kind": "c"}, name="events.jsonl")
    assert [one["kind"] for one in first.new_messages(2)] == ["c"]
    assert [one["kind"] for one in Follower(run).new_messages(1)] == ["b", "c"]


def test_a_step_in_the_clients_words(run: RunFolder) -> None:
    write(run, row(1), row(2), row(2, "eval"))
    metrics = all_metrics(run)
    assert step_message(metrics[1], 4) == "Step 1/4: training loss=1.00"
    assert step_message(metrics[2], 4) == (
        "Step 2/4: training loss=0.50, validation loss=0.50, full validation loss=0.50"
    )
    assert metrics[2] == {
        "step": 2, "train_loss": 0.5, "train_mean_token_accuracy": 0.5, "valid_loss": 0.5,
        "valid_mean_token_accuracy": 0.5, "full_valid_loss": 0.5, "full_valid_mean_token_accuracy": 0.5,
    }  # fmt: skip


def test_the_result_file_has_a_row_a_step_and_empty_cells_where_nothing_was_measured(run: RunFolder) -> None:
    write(run, row(1), row(3), row(3, "eval"))
    assert result_csv(all_metrics(run)).decode() == (
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,1.0,0.5,,\n3,0.33333,0.5,0.33333,0.5\n"
    )


def test_epochs_end_where_the_trainer_saves(run: RunFolder) -> None:
    assert [step for step in range(1, 5) if PLAN.ends_epoch(step)] == [2, 4]
    assert PLAN.steps == 4
    follower = Follower(run)
    write(run, row(1))
    [step] = follower.new_steps(0, PLAN, over=False)
    assert step_metrics(step)["train_loss"] == 1.0
