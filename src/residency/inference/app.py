"""HTTP: OpenAI's chat completions and completions, `/health` and `/unload`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from residency.errors import RequestError, ResidencyError
from residency.inference.chat import Chat
from residency.inference.completions import Completion
from residency.inference.gone import unless_gone
from residency.inference.host import Host, Place
from residency.inference.problems import envelope, invalid, status
from residency.inference.requests import Asked, ChatRequest, CompletionRequest
from residency.inference.work import Work

log = logging.getLogger(__name__)
Writer = Chat | Completion
Begin = Callable[[Place, Work], Writer]
Requested = TypeVar("Requested", bound=Asked)


def create_app(host: Host) -> Starlette:
    async def chat(request: Request) -> Response:
        body = await read_body(request)
        asked = parsed(ChatRequest, body)
        return Answer(host, asked, lambda place, work: Chat(asked, body, place, work))

    async def completions(request: Request) -> Response:
        asked = parsed(CompletionRequest, await read_body(request))
        return Answer(host, asked, lambda place, work: Completion(asked, place, work))

    async def health(request: Request) -> Response:
        return JSONResponse(report(host))

    async def unload(request: Request) -> Response:
        return JSONResponse({"unloaded": await host.unload()})

    return Starlette(
        routes=[
            Route("/chat/completions", chat, methods=["POST"]),
            Route("/completions", completions, methods=["POST"]),
            Route("/health", health),
            Route("/unload", unload, methods=["POST"]),
        ],
        exception_handlers={ResidencyError: failure, Exception: bug},  # type: ignore[dict-item]
    )


async def read_body(request: Request) -> dict[str, Any]:
    """Raises RequestError for what is no JSON object of whole characters."""
    try:
        body = json.loads(await request.body())
        json.dumps(body, ensure_ascii=False).encode()  # "\\ud800" is JSON, but no character
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise RequestError("We could not parse the JSON body of your request", code="invalid_json")
    return body


def parsed(kind: type[Requested], body: dict[str, Any]) -> Requested:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise invalid(error, body) from error


async def failure(request: Request, error: ResidencyError) -> Response:
    return refusal(error, 1)


async def bug(request: Request, error: Exception) -> Response:
    """Starlette logs it."""
    return refusal(ResidencyError(f"an error of ours: {type(error).__name__}", hint="see the log"), 1)


def refusal(error: ResidencyError, wait_seconds: int) -> Response:
    later = {"retry-after": str(wait_seconds)} if status(error) in (429, 503) else {}
    return JSONResponse(envelope(error), status(error), headers=later)


class Answer(Response):
    """Decodes while it is sent; where the client goes away, its rows leave the batch."""

    def __init__(self, host: Host, asked: Asked, begin: Begin) -> None:
        self._host, self._asked, self._begin = host, asked, begin
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await unless_gone(receive, self._answer(scope, receive, send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        work, wait_seconds, begun = Work(), 1, False
        try:
            async with AsyncExitStack() as stack:
                place = await stack.enter_async_context(
                    self._host.place(self._asked.model.base, self._asked.model.adapter)
                )
                stack.callback(work.cancel)
                writer = await asyncio.to_thread(self._begin, place, work)
                wait_seconds = place.loaded.decoder.wait_seconds()
                place.loaded.decoder.submit(work.rows)
                if not self._asked.stream:
                    async for piece in work.pieces():
                        writer.take(piece)
                    whole = await asyncio.to_thread(writer.whole)
                    await JSONResponse(whole)(scope, receive, send)
                    return
                async for event in events(writer, work):
                    if not begun:
                        await send({"type": "http.response.start", "status": 200, "headers": SSE})
                        begun = True
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        except ResidencyError as error:
            if not begun:
                await refusal(error, wait_seconds)(scope, receive, send)
            else:
                await send({"type": "http.response.body", "body": as_event(envelope(error))})


SSE = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]


async def events(writer: Writer, work: Work) -> AsyncIterator[bytes]:
    """The head of the answer waits for its first piece, so that an error before it still has a status of its own."""
    opened = False
    async for piece in work.pieces():
        if not opened:
            for chunk in writer.opening():
                yield as_event(chunk)
            opened = True
        writer.take(piece)
        for chunk in writer.chunks(piece):
            yield as_event(chunk)
    for chunk in writer.closing():
        yield as_event(chunk)


def as_event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def report(host: Host) -> dict[str, Any]:
    """What is loaded and what was done with it, in numbers; no prompts and no names but the bases'."""
    bases = []
    for name, loaded in host.loaded.items():
        batch = loaded.decoder.batch
        bases.append(
            {
                "base": name,
                "context_tokens": batch.context_tokens,
                "cache_tokens": batch.cache_tokens,
                "adapters": len(batch.adapters),
                "running": len(batch.rows),
                "waiting": len(batch.waiting),
                "prompt_tokens": batch.counts.prompt_tokens,
                "completion_tokens": batch.counts.completion_tokens,
                "steps": batch.counts.steps,
                "preempted": batch.counts.preempted,
            }
        )
    return {"status": "ok", "bases": bases}
