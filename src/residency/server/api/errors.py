"""Every failure in OpenAI's envelope: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from residency.config.problems import by_path, either
from residency.errors import RequestError, ResidencyError, ResourceError

log = logging.getLogger(__name__)
SHOWN_PROBLEMS = 5
RETRY_SECONDS = 2
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def handle_errors(app: FastAPI) -> None:
    app.add_exception_handler(ResidencyError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _bug)


def envelope(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    kind = "server_error" if status >= 500 else TYPES.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def answer(error: ResidencyError) -> JSONResponse:
    status = error.status if isinstance(error, RequestError) else error.http_status
    headers = {}
    if status == 409:  # clients try a 409 three times, and it would be refused three times
        status = 400
    if status in (429, 503) or isinstance(error, ResourceError):
        headers["retry-after"] = str(RETRY_SECONDS)
    return JSONResponse(envelope(status, sentence(error), param=error.param, code=error.code), status, headers)


def sentence(error: ResidencyError) -> str:
    """On one line, because a client prints nothing but the message."""
    parts = [error.message, *error.problems[:SHOWN_PROBLEMS]]
    return "; ".join(parts) + (f". Hint: {error.hint}" if error.hint else "")


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ResidencyError)
    return answer(error)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = _problems(error)
    message = "; ".join(f"Invalid value for '{place}': {what}" for place, what in problems[:SHOWN_PROBLEMS])
    return JSONResponse(envelope(400, message, param=problems[0][0], code="invalid_value"), 400)


def _problems(error: RequestValidationError) -> list[tuple[str, str]]:
    """Where and what, without the value: a message may be logged by others, and a value may be anything."""
    details = error.errors()
    if isinstance(error.body, dict) and all(len(one["loc"]) > 1 and one["loc"][0] == "body" for one in details):
        found = by_path([one | {"loc": one["loc"][1:]} for one in details], error.body)
        return [(place[:200], either(of)[:300]) for place, of in found.items()]
    return [(".".join(map(str, one["loc"][1:]))[:200] or str(one["loc"][0]), one["msg"][:300]) for one in details]


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = {
        404: "Unknown request URL; please check it for typos",
        405: f"Not allowed to {request.method} here",
        413: "The request's body is too large",
    }.get(error.status_code, str(error.detail))
    code = {404: "unknown_url", 405: "method_not_allowed", 413: "request_too_large"}.get(error.status_code)
    return JSONResponse(envelope(error.status_code, message, code=code), error.status_code, error.headers)


async def _bug(request: Request, error: Exception) -> JSONResponse:
    log.exception("a bug of ours: %s %s", request.method, request.scope.get("path", ""))
    message = f"A bug of ours ({type(error).__name__}); the server's log has the details"
    return JSONResponse(envelope(500, message, code="internal_error"), 500)
