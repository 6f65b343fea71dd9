"""From settings to a server that can be run."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import torch
import uvicorn
from starlette.applications import Starlette

from residency.inference.app import create_app
from residency.inference.batch import Limits
from residency.inference.host import Host, Settings


def settings_for(limits: Limits, *, bases: int, max_waiting: int, quantize: bool) -> Settings:
    """The machine's GPU in bf16, or its processor in fp32."""
    cuda = torch.cuda.is_available()
    dtype = torch.bfloat16 if cuda else torch.float32
    device = torch.device("cuda" if cuda else "cpu")
    return Settings(dtype, device, quantize=quantize, bases=bases, max_waiting=max_waiting, limits=limits)


def server_for(
    settings: Settings, config: uvicorn.Config, preload: str | None
) -> tuple[uvicorn.Server, threading.Event]:
    """The server, and what is set when the device failed: the server then stops."""
    lost = threading.Event()
    server = uvicorn.Server(config)

    def device_lost() -> None:
        lost.set()
        server.should_exit = True

    config.app = app_for(Host(settings, device_lost), preload)
    return server, lost


def app_for(host: Host, preload: str | None) -> Starlette:
    app = create_app(host)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if preload is not None:
            async with host.place(preload, None):
                pass
        yield
        await host.unload()

    app.router.lifespan_context = lifespan
    return app
