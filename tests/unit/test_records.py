from __future__ import annotations

from pathlib import Path

import pytest

from residency import durable
from residency.errors import RunError, TrainingError
from residency.records import EvalResult, Event, Metric, RunFolder


def metric(step: int, split: str = "train") -> Metric:
    return Metric.model_validate(
        {"step": step, "epoch": 0.1 * step, "split": split, "loss": 2.0, "tokens": 5, "seconds": 1.0}
    )


def test_events_are_written_and_told(tmp_path: Path) -> None:
    heard: list[Event] = []
    run = RunFolder(tmp_path, heard.append)
    run.say("rows_dropped", "3 rows were dropped", level="warning", rows=[1, 2, 3])
    assert run.events() == heard
    assert heard[0].kind == "rows_dropped"
    assert heard[0].data == {"rows": [1, 2, 3]}


def test_metrics_after_a_step_can_be_forgotten(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in range(5):
        run.append("metrics.jsonl", metric(step))
    run.append("metrics.jsonl", metric(2, "eval"))
    kept = [(m.step, m.split) for m in run.metrics() if m.step <= 2]
    run.keep_metrics(2)
    assert [(m.step, m.split) for m in run.metrics()] == kept
    run.keep_metrics(-1)
    assert run.metrics() == []


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    result = EvalResult(test="test", model="base", summaries={}, answers=[], seconds=1.5)
    run.write("eval/test.base.json", result)
    assert run.read("eval/test.base.json", EvalResult) == result
    assert run.eval_results() == [result]


@pytest.mark.parametrize(
    "content",
    [None, "", "{", '{"version": 2, "test": "test", "model": "base", "summaries": {}, "answers": [], "seconds": 1}'],
)
def test_a_record_that_is_missing_damaged_or_newer_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(RunError, match=r"result\.json"):
        RunFolder(tmp_path).read("result.json", EvalResult)


def test_a_failure_leaves_its_reason(tmp_path: Path) -> None:
    RunFolder(tmp_path).fail(TrainingError("the loss exploded", hint="lower the rate"))
    text = (tmp_path / "error.json").read_text()
    assert '"exit_code": 6' in text
    assert '"hint": "lower the rate"' in text


def test_a_number_json_cannot_hold_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        durable.write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()
