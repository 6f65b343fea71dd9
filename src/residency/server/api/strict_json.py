"""Request bodies as strict as the database needs them: no NaN, no key twice, no half characters, no NUL."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from residency.data.json_rows import parse_json
from residency.errors import RequestError


class StrictRequest(Request):
    async def json(self) -> Any:
        """Raises RequestError where the body is no JSON that can be kept."""
        if not hasattr(self, "value"):
            self.value = parse(await self.body())
        return self.value


class StrictRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            request = StrictRequest(request.scope, request.receive)
            if "json" in request.headers.get("content-type", ""):
                await request.json()  # here, because the handler would hide what is wrong with it
            return await handle(request)

        return strict


def parse(body: bytes) -> Any:
    if not body:
        return None
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise RequestError("the request's body is not UTF-8", code="invalid_json") from None
    row = parse_json(text)
    if row.problem:
        raise RequestError(f"the request's body {row.problem}", code="invalid_json")
    if "\\u0000" in text and has_nul(row.value):
        raise RequestError("the request's body contains the character NUL", code="invalid_json")
    return row.value


def has_nul(value: Any) -> bool:
    match value:
        case str():
            return "\0" in value
        case list():
            return any(map(has_nul, value))
        case dict():
            return any(has_nul(part) for pair in value.items() for part in pair)
    return False
