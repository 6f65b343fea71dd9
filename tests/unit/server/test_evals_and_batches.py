"""Eval runs and batches as a worker carries them out; the model is a stand-in that repeats what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from residency.server import ask, batches, evaluation
from residency.server.api import batches as batch_api
from residency.server.api import eval_runs
from residency.server.database import queue
from residency.server.database.connect import Database
from residency.server.database.tables import Batch, Eval, EvalRun, File, OutputItem
from residency.server.keys import find_project
from residency.server.settings import Settings
from residency.server.storage import Storage
from residency.server.worker_attempt import Desk
from tests.unit.server.serving import served

EXACT = {"type": "string_check", "name": "exact", "operation": "eq", "input": "{{ sample.output_text }}",
         "reference": "{{ item.answer }}"}  # fmt: skip
ASKING = {
    "type": "completions",
    "model": "smollm2-135m",
    "input_messages": {"type": "template", "template": [{"role": "user", "content": "{{ item.question }}"}]},
    "sampling_params": {"temperature": 0.0, "max_completion_tokens": 5},
}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


async def repeat(request: Request) -> Response:
    body = await request.json()
    text = body["messages"][-1]["content"]
    if text == "refuse me":
        return JSONResponse({"error": {"message": "too long", "code": "context_length_exceeded", "param": None}}, 400)
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return JSONResponse({"object": "chat.completion", "choices": [choice], "usage": USAGE})


@pytest.fixture(scope="module")
def inference() -> Iterator[str]:
    with served(Starlette(routes=[Route("/chat/completions", repeat, methods=["POST"])])) as url:  # type: ignore[arg-type]
        yield url


@pytest.fixture
def desk(database: Database, inference: str, tmp_path: Path) -> Desk:
    settings = Settings(home=tmp_path / "home", inference=inference)
    storage = Storage(settings.files_url, tmp_path / "cache")
    return Desk(settings, database, storage, "cpu", "none", threading.Event())


@pytest.fixture
def away(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A worker whose inference process is not there."""
    monkeypatch.setattr(ask, "PATIENCE_SECONDS", 0.1)
    return replace(desk, settings=replace(desk.settings, inference="http://127.0.0.1:1"))


def make_run(desk: Desk, source: dict[str, Any]) -> None:
    with desk.database.write() as session:
        project = find_project(session).id
        made = Eval(project_id=project, name="", data_source_config={"type": "custom", "schema": {}},
                    testing_criteria=[EXACT])  # fmt: skip
        session.add(made)
        session.flush()
        session.add(EvalRun(project_id=project, eval_id=made.id, name="", model=source.get("model", ""),
                            data_source=source))  # fmt: skip


def carry_out_run(desk: Desk) -> EvalRun:
    with desk.database.write() as session:
        run = queue.claim(session, EvalRun, "worker", ("queued", "in_progress"))
    assert run is not None
    evaluation.carry_out(desk, run)
    with desk.database.read() as session:
        return session.scalars(select(EvalRun)).one()


def content(*items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "file_content", "content": [{"item": item} for item in items]}


def graded(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"type": "jsonl", "source": {"type": "file_content", "content": list(rows)}}


def test_a_run_asks_the_model_grades_each_answer_and_counts(desk: Desk) -> None:
    items = [
        {"question": "a", "answer": "a"},
        {"question": "b", "answer": "c"},
        {"question": "refuse me", "answer": ""},
    ]
    make_run(desk, ASKING | {"source": content(*items)})
    found = eval_runs.shape(carry_out_run(desk))
    assert found["status"] == "completed"
    assert found["error"] is None
    assert found["result_counts"] == {"total": 3, "passed": 1, "failed": 1, "errored": 1}
    assert found["per_testing_criteria_results"] == [{"testing_criteria": "exact", "passed": 1, "failed": 2}]
    assert found["per_model_usage"] == [
        {"model_name": "smollm2-135m", "invocation_count": 3, "cached_tokens": 0,
         "prompt_tokens": 6, "completion_tokens": 4, "total_tokens": 10}
    ]  # fmt: skip
    with desk.database.read() as session:
        rows = session.scalars(select(OutputItem).order_by(OutputItem.position)).all()
    assert [row.status for row in rows] == ["pass", "fail", "error"]
    shown = eval_runs.shape_item(rows[2], "eval")
    assert shown["sample"]["error"]["message"] == "too long"
    assert eval_runs.shape_item(rows[0], "eval")["sample"]["input"] == [{"role": "user", "content": "a"}]


def test_a_run_waits_for_an_inference_process_that_is_away_for_long(desk: Desk, away: Desk) -> None:
    make_run(desk, ASKING | {"source": content({"question": "a", "answer": "a"})})
    assert carry_out_run(away).status == "queued"
    assert carry_out_run(desk).status == "completed"


def test_a_run_that_waits_can_be_cancelled(desk: Desk, away: Desk) -> None:
    make_run(desk, ASKING | {"source": content({"question": "a", "answer": "a"})})
    with desk.database.write() as session:
        session.query(EvalRun).update({"wanted": "cancel"})
    with desk.database.write() as session:
        run = queue.claim(session, EvalRun, "worker", ("queued",))
        assert run is not None
        queue.put_back(session, run, "queued")
    assert carry_out_run(away).status == "canceled"


def test_answers_that_are_there_already_are_graded_without_a_model(desk: Desk) -> None:
    sample = {"output_text": "x", "usage": {"prompt_tokens": "many"}}
    make_run(desk, graded({"item": {"answer": "x"}, "sample": sample}, {"item": {"answer": "x"}}))
    found = eval_runs.shape(carry_out_run(desk))
    assert found["result_counts"] == {"total": 2, "passed": 1, "failed": 0, "errored": 1}
    assert found["per_model_usage"] == []


def test_a_run_that_another_worker_began_goes_on_behind_its_last_block(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "BLOCK_ROWS", 2)
    make_run(desk, ASKING | {"source": content(*[{"question": str(n), "answer": str(n)} for n in range(5)])})
    with desk.database.write() as session:
        first = queue.claim(session, EvalRun, "first", ("queued",))
    assert first is not None
    with evaluation.Inference(desk.settings.inference_url) as inference:
        begun = evaluation.Evaluation(desk, first, inference)
        begun.do(next(begun.blocks()))
    with desk.database.write() as session:
        queue.release(session, first, "in_progress")
    assert carry_out_run(desk).results["result_counts"] == {"total": 5, "passed": 5, "failed": 0, "errored": 0}
    with desk.database.read() as session:
        assert sorted(session.scalars(select(OutputItem.position))) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (ASKING | {"source": {"type": "file_id", "id": "file-nothing"}}, "No such File object"),
        (
            ASKING | {"source": {"type": "file_content", "content": [{"question": "a"}]}},
            'row 1 of the data has no "item"',
        ),
        (ASKING | {"source": content({"answer": "a"})}, "the row has no `item.question`"),
        (ASKING | {"model": "gpt-5", "source": content()}, "`gpt-5` does not exist"),
        (graded({"item": {"answer": "x"}, "sample": "x"}), '"sample" of row 1 is no answer'),
        (
            graded({"item": {"answer": "x"}, "sample": {"output_text": "x", "usage": [1]}}),
            '"sample" of row 1 is no answer',
        ),
    ],
)
def test_a_run_that_cannot_work_fails_with_the_reason(desk: Desk, source: dict[str, Any], reason: str) -> None:
    make_run(desk, source)
    run = carry_out_run(desk)
    assert run.status == "failed"
    assert reason in (run.error or {})["message"]


def make_batch(desk: Desk, *lines: dict[str, Any] | str) -> None:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    with desk.database.write() as session:
        project = find_project(session).id
        file = File(project_id=project, filename="b.jsonl", purpose="batch", bytes=len(text))
        desk.storage.write(file.id, iter([text.encode()]))
        session.add(file)
        session.add(Batch(project_id=project, endpoint="/v1/chat/completions", input_file_id=file.id,
                          completion_window="24h", expires_at=0.0))  # fmt: skip


def line(custom_id: str, text: str, **changes: Any) -> dict[str, Any]:
    body = {"model": "smollm2-135m", "messages": [{"role": "user", "content": text}]}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body} | changes


def carry_out_batch(desk: Desk) -> Batch:
    with desk.database.write() as session:
        batch = queue.claim(session, Batch, "worker", ("validating", "in_progress"))
    assert batch is not None
    batches.carry_out(desk, batch)
    with desk.database.read() as session:
        return session.scalars(select(Batch)).one()


def answers(desk: Desk, file: str | None) -> dict[str, Any]:
    assert file is not None
    with desk.storage.open(file) as opened:
        rows = [json.loads(row) for row in opened]
    return {row["custom_id"]: row["response"] for row in rows}


def test_a_batch_leaves_a_file_of_answers_and_one_of_refusals(desk: Desk) -> None:
    unknown = line("c", "x")
    unknown["body"]["model"] = "gpt-5"
    make_batch(desk, line("a", "hello"), line("b", "refuse me"), unknown)
    batch = carry_out_batch(desk)
    shown = batch_api.shape(batch)
    assert shown["status"] == "completed"
    assert shown["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
    good, bad = answers(desk, batch.output_file_id), answers(desk, batch.error_file_id)
    assert good["a"]["body"]["choices"][0]["message"]["content"] == "hello"
    assert good["a"]["body"]["model"] == "smollm2-135m"
    assert (bad["b"]["status_code"], bad["c"]["status_code"]) == (400, 404)
    assert bad["c"]["body"]["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["{"], "line 1 is not valid JSON"),
        ([line("a", "x"), line("a", "y")], "line 2: custom_id a is there twice"),
        ([line("a", "x", url="/v1/completions")], "url /v1/chat/completions"),
        ([line("a", "x", body=None)], "line 1 has no body"),
        ([], "not 0"),
    ],
)
def test_a_file_that_is_no_batch_fails_before_anything_is_asked(desk: Desk, lines: list[Any], reason: str) -> None:
    make_batch(desk, *lines)
    shown = batch_api.shape(carry_out_batch(desk))
    assert shown["status"] == "failed"
    assert shown["errors"] is not None
    assert reason in shown["errors"]["data"][0]["message"]


def test_every_line_that_is_no_request_is_named(desk: Desk) -> None:
    make_batch(desk, line("a", "x"), "{", line("b", "x", url="/v1/completions"))
    shown = batch_api.shape(carry_out_batch(desk))
    assert shown["errors"] is not None
    assert [(one["line"], one["code"]) for one in shown["errors"]["data"]] == [
        (2, "invalid_json_line"), (3, "mismatched_endpoint"),
    ]  # fmt: skip
    assert set(shown["errors"]["data"][0]) == {"code", "message", "param", "line"}


def test_a_batch_that_is_taken_over_asks_nothing_twice(desk: Desk) -> None:
    make_batch(desk, line("a", "hello"), line("b", "world"))
    with desk.database.read() as session:
        id = session.scalars(select(Batch.id)).one()
    folder = desk.work(id)
    folder.mkdir(parents=True)
    before = {"custom_id": "a", "response": {"status_code": 200, "body": "from before"}}
    (folder / "answers.jsonl").write_text(json.dumps(before) + '\n{"custom_id": "b", "resp')
    batch = carry_out_batch(desk)
    found = answers(desk, batch.output_file_id)
    assert found["a"]["body"] == "from before"
    assert found["b"]["body"]["choices"][0]["message"]["content"] == "world"
    assert batch.counts == {"total": 2, "completed": 2, "failed": 0}
    assert not folder.exists()


def test_a_batch_waits_for_an_inference_process_that_is_away_for_long(desk: Desk, away: Desk) -> None:
    make_batch(desk, line("a", "hello"))
    assert carry_out_batch(away).status == "in_progress"
    batch = carry_out_batch(desk)
    assert batch_api.shape(batch)["request_counts"] == {"total": 1, "completed": 1, "failed": 0}


def test_a_cancelled_batch_keeps_what_was_answered(desk: Desk) -> None:
    make_batch(desk, line("a", "hello"))
    with desk.database.write() as session:
        session.query(Batch).update({"wanted": "cancel"})
    assert batch_api.shape(carry_out_batch(desk))["status"] == "cancelled"
