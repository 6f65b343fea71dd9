"""`residency serve`: OpenAI's endpoints on this machine, in one command."""

from __future__ import annotations

import errno
import logging
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from residency.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from residency.server.settings import Settings
    from residency.server.supervise import Child

HOME = Path("residency-home")
DEFAULT_PORT = 8000
BACKLOG = 1024
"""Connections that wait while the API process starts again."""
GPUS = Path("/proc/driver/nvidia/gpus")
EPILOG = """
Examples

    residency serve

    residency serve --alias 'gpt-4o-mini*=Qwen/Qwen3-4B' --fetch-models

    residency serve --host 0.0.0.0 --database postgresql://residency@db/residency

Then, in the client's code: `OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="any")`.
"""


def add_to(app: typer.Typer) -> None:
    app.command("serve", epilog=EPILOG)(serve)


def serve(
    home: Annotated[Path, typer.Option("--home", help="The folder of the database, files, runs and models.")] = HOME,
    host: Annotated[
        str, typer.Option("--host", help="Any address but this machine's own needs API keys (`residency keys`).")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = DEFAULT_PORT,
    alias: Annotated[
        list[str] | None,
        typer.Option("--alias", metavar="NAME=MODEL", help="A name, with * for anything, and the model it means."),
    ] = None,
    database: Annotated[
        str | None, typer.Option("--database", metavar="URL", help="postgresql://...; default: SQLite in the folder.")
    ] = None,
    files: Annotated[
        str | None, typer.Option("--files", metavar="URL", help="Where files go, as fsspec names it; default: home.")
    ] = None,
    inference: Annotated[
        str | None,
        typer.Option("--inference", metavar="URL", help="An inference process of yours, instead of starting one."),
    ] = None,
    organization: Annotated[
        str, typer.Option("--organization", help="The second part of ft:base:organization:suffix:id.")
    ] = "residency",
    fetch_models: Annotated[
        bool, typer.Option("--fetch-models", help="Clients may name Hub models that are not on this machine yet.")
    ] = False,
    python_graders: Annotated[
        bool | None,
        typer.Option("--python-graders/--no-python-graders", help="Run clients' graders; default: on this host only."),
    ] = None,
    results_base64: Annotated[
        bool, typer.Option("--results-base64", help="Serve result files in base64, as OpenAI did.")
    ] = False,
    requests_per_minute: Annotated[
        int | None, typer.Option("--requests-per-minute", min=1, help="Most requests a minute for one key.")
    ] = None,
    conformance_fixtures: Annotated[
        bool,
        typer.Option("--conformance-fixtures", help="For the official client's own tests: nothing is trained."),
    ] = False,
) -> None:
    """Answer OpenAI's fine-tuning, evals and chat API: one process each for requests, training and inference.

    Ctrl-C stops it; a job that is training leaves a checkpoint and goes on when the server is back.
    """
    from residency.server.settings import Settings

    loopback = is_loopback(host)
    settings = Settings(
        home=home, database=database, files=files, inference=inference, organization=organization, loopback=loopback,
        aliases=tuple(read_alias(text) for text in alias or ()), fetch_models=fetch_models,
        python_graders=loopback if python_graders is None else python_graders, results_base64=results_base64,
        requests_per_minute=requests_per_minute, conformance_fixtures=conformance_fixtures,
    )  # fmt: skip
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with bind(host, port) as listening:
        run(settings, listening)


def run(settings: Settings, listening: socket.socket) -> None:
    from residency.server.database.connect import open_database
    from residency.server.supervise import only_server, stop_requests, supervise, write_line
    from residency.server.supervise_settings import write_settings

    with only_server(settings.home), stop_requests() as stopping:
        write_settings(settings)
        open_database(settings.database_url).close()  # migrated once, before three processes want to
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        write_line("server", f"base_url http://{shown}:{port}/v1, folder {settings.home}")
        if not settings.loopback:
            write_line("server", "reachable from other machines: every request needs a key (`residency keys create`)")
        supervise(children(settings, listening.fileno()), stopping)
        write_line("server", "stopped")


def children(settings: Settings, listening: int) -> list[Child]:
    from residency.server.supervise import Child

    home, devices = str(settings.home.absolute()), devices_here()
    found = [Child("api", ("residency.server.api", home, "--fd", str(listening)), fds=(listening,))]
    for number, device in enumerate(devices):
        name = "worker" if len(devices) == 1 else f"worker-{number}"
        found.append(Child(name, ("residency.server.worker", home, "--device", device)))
    if not settings.inference and not settings.conformance_fixtures:
        socket_path = settings.inference_url.removeprefix("unix:")
        found.append(Child("inference", ("residency.inference", socket_path, "--device", devices[-1])))
    return found


def devices_here() -> list[str]:
    """Every GPU, or the processor where there is none. Asking the driver's files spares this process torch."""
    gpus = sorted(GPUS.iterdir()) if GPUS.is_dir() else []
    return [f"cuda:{number}" for number in range(len(gpus))] or ["cpu"]


def bind(host: str, port: int) -> socket.socket:
    """Raises ConfigError for an address that is none of this machine's, ResourceError for a port that is taken."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ResourceError(f"port {port} is taken", code="address_in_use", param="--port",
                                hint="stop what runs there, or take another --port") from error  # fmt: skip
        reason = "it needs more rights" if isinstance(error, PermissionError) else "no address of this machine"
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}", param="--host") from error


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_alias(text: str) -> tuple[str, str]:
    name, equals, model = text.partition("=")
    if not (equals and name and model):
        raise ConfigError(f"--alias {text}: is not of the form NAME=MODEL", param="--alias",
                          hint="for example --alias 'gpt-4o-mini*=Qwen/Qwen3-4B'")  # fmt: skip
    return name, model
