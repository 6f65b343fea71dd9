"""`residency serve --conformance-fixtures`: what the official client's own tests ask for.

They name objects that were never made, and use, delete and complete them in any order. Before each request the objects
it names are put back; requests that name one wait for each other. Chats are answered without a model.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from typing import Any

import anyio
from sqlalchemy import inspect, select, update
from sqlalchemy.orm import Session
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from residency.server.api.server import Server
from residency.server.database import tables as t

JOB, CHECKPOINT = "ft-AF1WoRqd3aJAHsqc9NY7iL8F", "ft:gpt-4o-mini-2024-07-18:org:weather:B7R9VjQd"
TUNED, PERMISSION = "ft:gpt-4o-mini:acemeco:suffix:abc123", "cp_zc4Q7MP6XxulcVzj4MZdwsAB"
FILES = ("file-abc123", "file_id", "input_file_id", "string")
UPLOAD, COMPLETION, EVAL, RUN, ITEM, BATCH = (
    "upload_abc123", "completion_id", "eval_id", "run_id", "output_item_id", "batch_id",
)  # fmt: skip
NAMED = re.compile("|".join(map(re.escape, (JOB, CHECKPOINT, TUNED, *FILES, UPLOAD, COMPLETION, EVAL, BATCH))))
NEVER_OVER = 1e12
"""A lease, so that no worker takes a fixture."""
ALIASES = (("*", "smollm2-135m"),)
MESSAGES = [{"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "2"}]
ROWS = 10 * (json.dumps({"messages": MESSAGES}).encode() + b"\n")


class Fixtures:
    """Puts the fixtures back before each request that names one."""

    def __init__(self, app: ASGIApp, *, server: Server) -> None:
        self.app, self.server = app, server
        self.one_at_a_time = anyio.Lock()
        with server.database.write() as session:
            restore(session, server, "")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not NAMED.search(scope["path"]):
            await self.app(scope, receive, send)
            return
        async with self.one_at_a_time:
            await run_in_threadpool(self.put_back, scope["path"])
            await self.app(scope, receive, send)

    def put_back(self, path: str) -> None:
        with self.server.database.write() as session:
            restore(session, self.server, path)


def restore(session: Session, server: Server, path: str) -> None:
    """`path` says in which state an object is wanted: what is completed can be completed again, but not cancelled."""
    for row in fixtures(server.default_project, path):
        if path and not {row.id, getattr(row, "eval_id", None)} & set(path.split("/")):
            continue
        there = session.scalar(select(type(row)).where(type(row).id == row.id))
        if there is None:
            session.add(row)
            session.flush()
        else:
            values = {name: getattr(row, name) for name, _ in inspect(type(row)).column_attrs.items() if name != "seq"}
            session.execute(update(type(row)).where(type(row).seq == there.seq).values(values))
        if isinstance(row, t.File):
            server.storage.write(row.id, iter([ROWS]))


def fixtures(project: str, path: str) -> Iterable[Any]:
    verb = path.rpartition("/")[2]
    own: dict[str, Any] = {"project_id": project}
    held = own | {"lease_until": NEVER_OVER}
    first, message = FILES[0], {"role": "assistant", "content": "?"}
    settings = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}}
    rows = {"type": "jsonl", "source": {"type": "file_id", "id": first}}
    form: dict[str, Any] = {"filename": "t.jsonl", "purpose": "fine-tune"}
    soon = time.time() + 3600
    yield from (t.File(**own, **form, id=id, bytes=len(ROWS)) for id in FILES)
    yield t.Upload(**own, **form, id=UPLOAD, bytes=0, mime_type="text/jsonl", expires_at=soon, file_id=first,
                   status="completed" if verb == "complete" else "pending")  # fmt: skip
    yield t.Job(**held, id=JOB, status="running" if verb == "pause" else "queued", model="gpt-4o-mini",
                base="smollm2-135m", training_file=first, seed=42, method=settings)  # fmt: skip
    yield from (t.Model(**own, id=name, base="smollm2-135m") for name in (TUNED, CHECKPOINT, JOB))
    yield t.Permission(id=PERMISSION, model=CHECKPOINT, project_id=project)
    yield t.StoredCompletion(
        **own, id=COMPLETION, model="m", messages=[message], completion=chat({}) | {"id": COMPLETION}
    )
    yield t.Eval(**own, id=EVAL, name="", data_source_config={"type": "custom", "schema": {}}, testing_criteria=[])
    yield t.EvalRun(**held, id=RUN, eval_id=EVAL, name="", model="m", data_source=rows)
    yield t.OutputItem(id=ITEM, run_id=RUN, position=0, status="pass", item={}, sample={}, results=[])
    yield t.Batch(**held, id=BATCH, endpoint="/v1/chat/completions", input_file_id=first, completion_window="24h",
                  expires_at=soon)  # fmt: skip


def chat(body: dict[str, Any]) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "logprobs": None,
              "message": {"role": "assistant", "content": "ok", "refusal": None}}  # fmt: skip
    return {
        "id": "none", "object": "chat.completion", "created": 0, "model": "none", "usage": USAGE,
        "choices": [choice | {"index": index} for index in range(body.get("n") or 1)],
    }  # fmt: skip


USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


async def answer_chat(request: Request) -> Response:
    body = await request.json()
    choice = {"index": 0, "delta": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
    chunk = {"id": "none", "object": "chat.completion.chunk", "created": 0, "model": "none", "choices": [choice]}
    return answered(body, chat(body), chunk)


async def answer_text(request: Request) -> Response:
    body = await request.json()
    text = {"id": "none", "object": "text_completion", "created": 0, "model": "none", "usage": USAGE,
            "choices": [{"index": 0, "text": "ok", "finish_reason": "stop", "logprobs": None}]}  # fmt: skip
    return answered(body, text, text)


def answered(body: dict[str, Any], whole: dict[str, Any], chunk: dict[str, Any]) -> Response:
    if not body.get("stream"):
        return JSONResponse(whole)
    events = (f"data: {text}\n\n" for text in (json.dumps(chunk), "[DONE]"))
    return StreamingResponse(events, media_type="text/event-stream")


async def healthy(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


no_model = Starlette(
    routes=[
        Route("/chat/completions", answer_chat, methods=["POST"]),
        Route("/completions", answer_text, methods=["POST"]),
        Route("/health", healthy),
    ]
)
"""Answers like an inference process, always the same."""
