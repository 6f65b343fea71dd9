"""What every request passes before and after the endpoints: whom it may come from, and the headers of its answer."""

from __future__ import annotations

import json
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from residency.server.api.errors import envelope

LOOPBACK = re.compile(r"(localhost|127(\.\d+){3}|\[::1\]|testserver)(:\d+)?", re.IGNORECASE)
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}


TOO_LARGE = json.dumps(envelope(413, "The request's body is too large", code="request_too_large")).encode()
"""In place of the framework's own answer, which is plain text."""


class Guard:
    """Keeps other web pages off a server without keys, and puts the security headers on every answer.

    A page in the user's browser can send requests to 127.0.0.1: those bear its `Origin`. One whose name was rebound
    to 127.0.0.1 is of the same origin, but not of a `Host` that is this machine.
    """

    def __init__(self, app: ASGIApp, *, loopback: bool) -> None:
        self.app, self.loopback = app, loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, replaced = time.perf_counter(), False

        async def sending(message: Message) -> None:
            nonlocal replaced
            if replaced:
                return
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers["x-request-id"] = f"req_{secrets.token_hex(16)}"
                headers["openai-processing-ms"] = str(round((time.perf_counter() - began) * 1000))
                if replaced := message["status"] == 413 and "json" not in headers.get("content-type", ""):
                    headers.update({"content-type": "application/json", "content-length": str(len(TOO_LARGE))})
                    await send(message)
                    message = {"type": "http.response.body", "body": TOO_LARGE}
            await send(message)

        refusal = self.refusal(Headers(scope=scope))
        await (refusal or self.app)(scope, receive, sending)

    def refusal(self, headers: Headers) -> JSONResponse | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.loopback and not LOOPBACK.fullmatch(host):
            message = "This server answers only requests to this machine; start it with --host to serve others"
            return JSONResponse(envelope(403, message, code="wrong_host"), 403)
        if origin is not None and origin.partition("://")[2] != host:
            return JSONResponse(envelope(403, "Requests of other web pages are refused", code="cross_origin"), 403)
        return None
