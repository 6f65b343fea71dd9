"""Carries out batches: each line of a file is a request, and its answer a line of another.

Answers are appended to a file in the worker's folder as they come, so that a worker which takes the batch over asks
only what was not answered yet.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from residency import durable
from residency.data.json_rows import parse_json
from residency.errors import RequestError, ResidencyError
from residency.server.ask import UNAVAILABLE, Inference, refusal
from residency.server.database.queue import LeaseLost, keep, put_back, release
from residency.server.database.tables import Batch, File
from residency.server.ids import new_id
from residency.server.names import resolve
from residency.server.worker_attempt import Desk
from residency.server.worker_pulse import Pulse, pulse

AT_ONCE = 16
MOST_REQUESTS = 50_000
SHOWN_LINES = 50
ENDPOINTS = ("/v1/chat/completions", "/v1/completions")


class Request(NamedTuple):
    custom_id: str
    body: dict[str, Any]


def carry_out(desk: Desk, batch: Batch) -> None:
    """Ends the batch as `completed`, `failed` or `cancelled`.

    Gives it back when the worker is to stop, and where the inference process is away for long.
    """
    folder = desk.work(batch.id)
    with pulse(desk.database, batch) as beating:
        try:
            requests, wrong = read_requests(desk, batch)
            if wrong:
                fail(desk, batch, wrong[0] | {"others": wrong[1:]})
                return
            folder.mkdir(parents=True, exist_ok=True)
            finished = ask_all(desk, batch, requests, folder, beating)
            if beating.lost:
                return
            if finished or beating.wanted == "cancel":
                finish(desk, batch, folder, "completed" if finished else "cancelled", len(requests))
            else:
                give_back(desk, batch)
        except LeaseLost:
            return
        except ResidencyError as error:
            if error.code == UNAVAILABLE:
                give_back(desk, batch)
                return
            fail(desk, batch, problem(error))


def fail(desk: Desk, batch: Batch, problem: dict[str, Any]) -> None:
    with desk.database.write() as session:
        release(session, batch, "failed", finished_at=time.time(), error=problem)


def problem(error: ResidencyError, line: int | None = None) -> dict[str, Any]:
    return {"code": error.code, "message": str(error), "param": error.param, "line": line}


def give_back(desk: Desk, batch: Batch) -> None:
    with desk.database.write() as session:
        put_back(session, batch, "in_progress")


def read_requests(desk: Desk, batch: Batch) -> tuple[list[Request], list[dict[str, Any]]]:
    """The requests, and the first SHOWN_LINES lines that are none which this batch can send.

    Raises RequestError where they are too few or too many.
    """
    requests: dict[str, Request] = {}
    wrong: list[dict[str, Any]] = []
    with desk.storage.open(batch.input_file_id) as file:
        for number, line in enumerate(file, 1):
            try:
                if line.strip():
                    request = read_request(line, batch.endpoint, number)
                    if request.custom_id in requests:
                        raise RequestError(f"line {number}: custom_id {request.custom_id[:100]} is there twice",
                                           code="duplicate_custom_id")  # fmt: skip
                    requests[request.custom_id] = request
            except RequestError as error:
                wrong.append(problem(error, number))
                if len(wrong) == SHOWN_LINES:
                    break
    if not wrong and not 0 < len(requests) <= MOST_REQUESTS:
        raise RequestError(f"a batch has 1 to {MOST_REQUESTS:,} requests, not {len(requests):,}", code="invalid_file")
    return list(requests.values()), wrong


def read_request(line: bytes, endpoint: str, number: int) -> Request:
    value, problem = parse_json(line.decode(errors="replace"))
    if problem:
        raise RequestError(f"line {number} {problem}", code="invalid_json_line")
    if not isinstance(value, dict) or not isinstance(value.get("body"), dict):
        raise RequestError(f"line {number} has no body", code="missing_required_parameter")
    if not isinstance(value.get("custom_id"), str):
        raise RequestError(f"line {number} has no custom_id", code="missing_required_parameter")
    if value.get("method") != "POST" or value.get("url") != endpoint:
        raise RequestError(f"line {number}: method must be POST and url {endpoint}", code="mismatched_endpoint")
    return Request(value["custom_id"], value["body"])


def ask_all(desk: Desk, batch: Batch, requests: list[Request], folder: Path, beating: Pulse) -> bool:
    """Answers what is not answered yet; false where it was stopped before the end."""
    found = answers(folder)
    answered, counts = {one["custom_id"] for one in found}, counted(found, len(requests))
    left = (request for request in requests if request.custom_id not in answered)
    tell(desk, batch, counts)
    with Inference(desk.settings.inference_url) as inference, ThreadPoolExecutor(AT_ONCE) as pool:
        while block := list(islice(left, AT_ONCE)):
            if beating.lost or beating.wanted or desk.stopping.is_set():
                return False
            for answer in pool.map(lambda request: ask(desk, batch, inference, request), block):
                durable.append_line(folder / "answers.jsonl", json.dumps(answer, ensure_ascii=False))
                counts["failed" if failed(answer) else "completed"] += 1
            tell(desk, batch, counts)
    return True


def ask(desk: Desk, batch: Batch, inference: Inference, request: Request) -> dict[str, Any]:
    """One line of the output; what is wrong with a request is its own answer, not the batch's end."""
    path = batch.endpoint.removeprefix("/v1")
    line: dict[str, Any] = {"id": new_id("batch_req_"), "custom_id": request.custom_id, "response": None, "error": None}
    try:
        model = str(request.body.get("model"))
        with desk.database.read() as session:
            target = resolve(session, desk.settings, batch.project_id, model)
        response = inference.answer(path, target, request.body | {"stream": False})
        if response.status_code != 200:
            raise refusal(response)
    except RequestError as error:
        body = {"error": {"message": error.message, "code": error.code, "param": error.param}}
        return line | {"response": {"status_code": error.status, "request_id": new_id("req_"), "body": body}}
    named = {"id": new_id("chatcmpl-"), "created": int(time.time()), "model": model}
    return line | {"response": {"status_code": 200, "request_id": new_id("req_"), "body": response.json() | named}}


def answers(folder: Path) -> list[dict[str, Any]]:
    return durable.read_jsonl(folder / "answers.jsonl")


def failed(answer: dict[str, Any]) -> bool:
    return bool(answer["response"]["status_code"] != 200)


def tell(desk: Desk, batch: Batch, counts: dict[str, int]) -> None:
    with desk.database.write() as session:
        keep(session, batch, status="in_progress", started_at=batch.started_at or time.time(), counts=counts)


def counted(answers: list[dict[str, Any]], total: int) -> dict[str, int]:
    failures = sum(map(failed, answers))
    return {"total": total, "completed": len(answers) - failures, "failed": failures}


def finish(desk: Desk, batch: Batch, folder: Path, status: str, total: int) -> None:
    """Stores the answers as files. What was answered before a cancel is kept, too."""
    found = answers(folder)
    made: dict[str, File] = {}
    for column, wanted in (("output_file_id", False), ("error_file_id", True)):
        lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in found if failed(one) is wanted]
        if lines:
            made[column] = store(desk, batch, f"{batch.id}_{column.removesuffix('_file_id')}.jsonl", lines)
    with desk.database.write() as session:
        session.add_all(made.values())
        ids = {column: file.id for column, file in made.items()}
        release(session, batch, status, finished_at=time.time(), counts=counted(found, total), **ids)
    shutil.rmtree(folder, ignore_errors=True)


def store(desk: Desk, batch: Batch, name: str, lines: list[str]) -> File:
    file = File(project_id=batch.project_id, filename=name, purpose="batch_output", bytes=0)
    if batch.output_expires_after:
        file.expires_at = file.created_at + batch.output_expires_after
    file.bytes = desk.storage.write(file.id, encoded(lines))
    return file


def encoded(lines: list[str]) -> Iterator[bytes]:
    for line in lines:
        yield line.encode()
