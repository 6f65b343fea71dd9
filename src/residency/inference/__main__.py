"""`python -m residency.inference`: serves base models and their adapters to the API process.

Exit codes: 0 stopped when asked to; those of `residency.errors` where it could not start; 75 the device failed and
nothing else will work in this process, so that it has to be started again.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from residency.errors import ConfigError, ResidencyError

DEVICE_LOST = 75


def serve(
    socket: Annotated[Path | None, typer.Argument(help="Unix socket to listen at, instead of a port.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at, with --port.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen at.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda:0, cuda:1 ...")] = "cpu",
    model: Annotated[str | None, typer.Option(help="Base model to load at once; others when asked for.")] = None,
    bases: Annotated[int, typer.Option(min=1, help="Base models in memory at once.")] = 1,
    adapters: Annotated[int, typer.Option(min=1, help="Adapters in memory at once, for each base.")] = 8,
    max_rows: Annotated[int, typer.Option(min=1, help="Answers that are decoded at once.")] = 16,
    max_waiting: Annotated[int, typer.Option(min=1, help="Answers that may wait; then requests get 429.")] = 64,
    cache_tokens: Annotated[
        int | None, typer.Option(min=16, help="Tokens of keys and values held at once; default: half the free memory.")
    ] = None,
    quantize: Annotated[bool, typer.Option("--quantize", help="Hold bases in 4-bit NF4, as QLoRA does.")] = False,
    grace_seconds: Annotated[int, typer.Option(min=0, help="Time for answers under way when stopped.")] = 10,
) -> None:
    """Serves base models and their adapters over HTTP, to one machine's own processes."""
    logging.basicConfig(level=logging.INFO, format="inference %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # It warns of a package that would serve 4-bit bases on a CPU.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        if (port is None) == (socket is None):
            raise ConfigError("name either a socket or a --port", hint="for example --port 8321", param="port")
        from residency.inference.batch import Limits
        from residency.inference.start import listen, run_server, settings_for

        limits = Limits(rows=max_rows, cache_tokens=cache_tokens, adapters=adapters)
        settings = settings_for(device, limits, bases=bases, max_waiting=max_waiting, quantize=quantize)
        with listen(socket, host, port) as listening:
            sound = run_server(settings, listening, model, grace_seconds)
    except ResidencyError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    if not sound:
        os._exit(DEVICE_LOST)  # the threads of a lost device cannot be joined


if __name__ == "__main__":
    typer.run(serve)
