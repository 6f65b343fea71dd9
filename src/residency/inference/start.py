"""From settings to a server that runs until it is told to stop."""

from __future__ import annotations

import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import torch
import uvicorn
from starlette.applications import Starlette

from residency.errors import ConfigError
from residency.inference.app import create_app
from residency.inference.batch import Limits
from residency.inference.host import Host, Settings


def settings_for(device: str, limits: Limits, *, bases: int, max_waiting: int, quantize: bool) -> Settings:
    """A GPU in bf16, a processor in fp32. Raises ConfigError where there is no such device."""
    try:
        chosen = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise ConfigError(f"the device {device!r} cannot be used: {str(error).splitlines()[0]}", param="device",
                          hint="cpu works everywhere; a GPU is cuda:0, cuda:1 ...") from error  # fmt: skip
    dtype = torch.bfloat16 if chosen.type == "cuda" else torch.float32
    return Settings(dtype, chosen, quantize=quantize, bases=bases, max_waiting=max_waiting, limits=limits)


def run_server(settings: Settings, listening: socket.socket, preload: str | None, grace_seconds: int) -> bool:
    """Until SIGTERM, SIGINT, or the end of the pipe on standard input. Returns False where the device failed."""
    lost = threading.Event()

    def device_lost() -> None:
        lost.set()
        server.should_exit = True

    host = Host(settings, device_lost)
    if preload is not None:
        host.preload(preload)
    app = app_for(host)
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on", server_header=False,
                       timeout_graceful_shutdown=grace_seconds)
    )  # fmt: skip
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises again what it obeyed, which would end us with an error
    threading.Thread(target=stop_with_parent, args=(server,), daemon=True).start()
    server.run(sockets=[listening])
    return not lost.is_set()


def app_for(host: Host) -> Starlette:
    app = create_app(host)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await host.unload()

    app.router.lifespan_context = lifespan
    return app


def stop_with_parent(server: uvicorn.Server) -> None:
    """A pipe on standard input is held open by whoever started us: its end is the end of them."""
    with suppress(OSError, ValueError):
        pipe = sys.stdin.fileno()
        if stat.S_ISFIFO(os.fstat(pipe).st_mode):
            while os.read(pipe, 4096):  # not by sys.stdin, whose lock would be held when the interpreter ends
                pass
            server.should_exit = True


def listen(path: Path | None, host: str, port: int | None) -> socket.socket:
    """A bound socket; one at `path` is for this user alone. Raises ConfigError where that cannot be had."""
    try:
        if path is None:
            return socket.create_server((host, port or 0))
        path.unlink(missing_ok=True)
        bound = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            bound.bind(str(path))
        finally:
            os.umask(before)
    except OSError as error:
        place = str(path) if path else f"{host}:{port}"
        raise ConfigError(
            f"cannot listen at {place}: {error.strerror or error}", param="port",
            hint="another process may listen there, or the path is longer than a socket's may be",
        ) from error  # fmt: skip
    return bound
