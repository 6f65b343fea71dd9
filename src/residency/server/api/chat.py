"""`/v1/chat/completions` and `/v1/completions`: handed on to the inference process under the model's real name."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from residency.errors import ResidencyError
from residency.inference.gone import unless_gone
from residency.server.api.errors import envelope, sentence
from residency.server.api.job_requests import Metadata
from residency.server.api.server import Caller, Inferrer
from residency.server.api.stored import keep
from residency.server.api.strict_json import StrictRoute
from residency.server.ask import read_whole, refusal, text_blocks
from residency.server.ids import new_id
from residency.server.names import Target, resolve

router = APIRouter(tags=["chat"], route_class=StrictRoute)

MOST_CHOICES = 128
CLIENT_GONE = 499
"""For the figures in /metrics: nobody reads this answer."""


class Generation(BaseModel):
    """What both endpoints know. Fields that are not named here are handed on, and ignored where they mean nothing."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(min_length=1, max_length=512)]
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    logit_bias: dict[str, float] | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None


class ChatRequest(Generation):
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    metadata: Metadata | None = None
    store: bool | None = None
    """Keep the answer for `GET /v1/chat/completions`."""


class CompletionRequest(Generation):
    prompt: str | list[str] | list[int] | list[list[int]] | None = None
    best_of: Annotated[int, Field(ge=0, le=20)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool | None = None
    suffix: str | None = None


@router.post("/chat/completions", responses={200: {"content": {"text/event-stream": {}}}})
async def create_chat_completion(caller: Inferrer, request: Request, body: ChatRequest) -> Response:
    answer = await unless_gone(request.receive, generate(caller, "/chat/completions", body, "chatcmpl-"))
    return answer or Response(status_code=CLIENT_GONE)


@router.post("/completions", responses={200: {"content": {"text/event-stream": {}}}})
async def create_completion(caller: Inferrer, request: Request, body: CompletionRequest) -> Response:
    answer = await unless_gone(request.receive, generate(caller, "/completions", body, "cmpl-"))
    return answer or Response(status_code=CLIENT_GONE)


async def generate(caller: Caller, path: str, body: Generation, prefix: str) -> Response:
    """Raises RequestError, also with what the inference process refused, and ResourceError where it is not there."""
    target = await run_in_threadpool(find_target, caller, body.model)
    values = body.model_dump(exclude_unset=True, exclude={"model"})
    named = {"id": new_id(prefix, 29), "created": int(time.time()), "model": body.model}
    with ExitStack() as held:
        held.enter_context(caller.server.limits.one_more())
        response = await caller.server.inference.stream(path, target, values)
        if response.status_code != 200:
            await read_whole(response)
            raise refusal(response)
        if body.stream:
            events = stream_events(caller, response, named, body, held.pop_all())
            return StreamingResponse(events, media_type="text/event-stream")
        await read_whole(response)
    completion = response.json() | named
    if isinstance(body, ChatRequest) and body.store:
        await run_in_threadpool(keep, caller, completion, body.messages, body.metadata)
    return JSONResponse(completion)


def find_target(caller: Caller, model: str) -> Target:
    with caller.read() as session:
        return resolve(session, caller.server.settings, caller.project_id, model)


async def stream_events(caller: Caller, response: Any, named: dict[str, Any], body: Generation,
                        held: ExitStack) -> AsyncIterator[bytes]:  # fmt: skip
    """An error after the first event can change no status any more: it is an event of its own, which clients raise."""
    with held:
        try:
            async for text in text_blocks(response):
                yield b"data: " + (text if text == "[DONE]" else named_chunk(text, named)).encode() + b"\n\n"
        except ResidencyError as error:
            record = envelope(error.http_status, sentence(error), code=error.code)
            yield b"data: " + json.dumps(record).encode() + b"\n\n"


def named_chunk(text: str, named: dict[str, Any]) -> str:
    chunk = json.loads(text)
    return text if "error" in chunk else json.dumps(chunk | named)
