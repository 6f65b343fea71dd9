"""The way to the inference process: its own HTTP on a socket, in OpenAI's shapes (docs/server.md)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx

from residency.errors import RequestError, ResourceError
from residency.server.names import Target

TIMEOUT = httpx.Timeout(600.0, connect=5.0)
PATIENCE_SECONDS = 120.0
PAUSE_SECONDS = 0.5
UNAVAILABLE = "inference_unavailable"
HOST = "http://inference"
"""Stands in the URL where a socket file is the address."""


class Inference:
    """One answer at a time for a worker (`answer`), or as a stream for the API (`stream`)."""

    def __init__(self, url: str, *, asgi: Any = None) -> None:
        """`unix:<path>` or `http://host:port`; `asgi` is an application that answers instead."""
        socket = url.removeprefix("unix:") if url.startswith("unix:") else None
        self.base = HOST if socket or asgi else url.rstrip("/")
        self.waiting = httpx.Client(
            base_url=self.base, timeout=TIMEOUT, trust_env=False, transport=httpx.HTTPTransport(uds=socket)
        )
        transport = httpx.ASGITransport(app=asgi) if asgi else httpx.AsyncHTTPTransport(uds=socket)
        self.streaming = httpx.AsyncClient(base_url=self.base, timeout=TIMEOUT, trust_env=False, transport=transport)

    def __enter__(self) -> Inference:
        return self

    def __exit__(self, *error: object) -> None:
        """For a worker, which streams nothing."""
        self.waiting.close()

    def answer(self, path: str, target: Target, body: dict[str, Any]) -> httpx.Response:
        """Waits while the process is busy or starting; the response may be an error of its own.

        Raises ResourceError (UNAVAILABLE) where there was no answer for PATIENCE_SECONDS.
        """
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while True:
            with suppress(httpx.TransportError):
                response = self.waiting.post(path, json=addressed(target, body))
                if response.status_code not in (429, 503):
                    return response
            if time.monotonic() > give_up_at:
                raise unavailable()
            time.sleep(PAUSE_SECONDS)

    async def stream(self, path: str, target: Target, body: dict[str, Any]) -> httpx.Response:
        """The response as soon as its head is there; whoever takes it closes it."""
        request = self.streaming.build_request("POST", path, json=addressed(target, body))
        try:
            return await self.streaming.send(request, stream=True)
        except httpx.TransportError as error:
            raise unavailable() from error

    async def ready(self) -> bool:
        try:
            return (await self.streaming.get("/health", timeout=5.0)).is_success
        except httpx.TransportError:
            return False

    async def close(self) -> None:
        self.waiting.close()
        await self.streaming.aclose()


def addressed(target: Target, body: dict[str, Any]) -> dict[str, Any]:
    return body | {"model": {"base": target.base, "adapter": target.adapter}}


def unavailable() -> ResourceError:
    return ResourceError("the inference process does not answer", code=UNAVAILABLE,
                         hint="it may be starting; try again, or look into the server's log")  # fmt: skip


def refusal(response: httpx.Response) -> RequestError:
    """The inference process's own error, to be passed on."""
    try:
        error = response.json()["error"]
        message, code, param = str(error["message"]), error.get("code"), error.get("param")
    except (ValueError, LookupError, TypeError, AttributeError):
        message, code, param = "the inference process failed", "inference_failed", None
    return RequestError(message, status=response.status_code, code=code, param=param)


async def read_whole(response: httpx.Response) -> None:
    """Raises ResourceError where the answer breaks off: the process was killed while it sent it."""
    try:
        await response.aread()
    except httpx.TransportError as error:
        raise unavailable() from error
    finally:
        await response.aclose()


async def text_blocks(response: httpx.Response) -> AsyncIterator[str]:
    """The `data:` of each server-sent event. Raises ResourceError where the stream breaks off."""
    try:
        async for line in response.aiter_lines():
            if line.startswith("data:"):
                yield line.removeprefix("data:").strip()
    except httpx.TransportError as error:
        raise unavailable() from error
    finally:
        await response.aclose()
