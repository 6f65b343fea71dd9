"""The API process: `build(settings)` is the whole application. It imports no torch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.metadata import version

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp

from residency.server import conformance
from residency.server.api import (
    batches,
    chat,
    eval_runs,
    evals,
    files,
    graders,
    health,
    jobs,
    models,
    permissions,
    stored,
    uploads,
)
from residency.server.api.errors import handle_errors
from residency.server.api.guard import Guard
from residency.server.api.known_keys import KnownKeys
from residency.server.api.limits import Limits
from residency.server.api.server import Server
from residency.server.ask import Inference
from residency.server.database.connect import open_database
from residency.server.keys import find_project
from residency.server.settings import Settings
from residency.server.storage import Storage

PARTS = (files, uploads, permissions, graders, jobs, models, evals, eval_runs, batches, chat, stored)
LARGEST_BODY_BYTES = 32 * 2**20
"""Of a request that is no file."""


class Api(FastAPI):
    """The framework's own answers, to a bug or a body that is too large, go through the guard as well."""

    def build_middleware_stack(self) -> ASGIApp:
        measured = health.Measured(super().build_middleware_stack(), self.state.metrics)
        return Guard(measured, loopback=self.state.server.settings.loopback)


def build(settings: Settings) -> FastAPI:
    """Opens the database and the files, and makes the application. Raises ConfigError, ResourceError."""
    if settings.conformance_fixtures:
        settings = replace(settings, aliases=(*settings.aliases, *conformance.ALIASES))
    server = open_server(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await server.inference.close()
        server.database.close()

    app = Api(
        title="Residency",
        version=version("residency"),
        description="OpenAI's fine-tuning, evals and chat endpoints on your own machine.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        max_body_size=files.LARGEST_BODY_BYTES,
        generate_unique_id_function=operation_id,
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    app.state.server, app.state.metrics = server, health.Metrics()
    v1 = APIRouter(prefix="/v1", max_body_size=LARGEST_BODY_BYTES)
    for part in PARTS:
        v1.include_router(part.router)
    app.include_router(v1)
    app.include_router(health.router)
    handle_errors(app)
    if settings.conformance_fixtures:
        app.add_middleware(conformance.Fixtures, server=server)
    return app


def open_server(settings: Settings) -> Server:
    settings.home.mkdir(parents=True, exist_ok=True)
    database = open_database(settings.database_url)
    with database.write() as session:
        project = find_project(session).id
    return Server(
        settings=settings,
        database=database,
        storage=Storage(settings.files_url, cache=settings.home / "cache"),
        inference=Inference(
            settings.inference_url, asgi=conformance.no_model if settings.conformance_fixtures else None
        ),
        limits=Limits(settings.requests_per_minute, settings.requests_at_once),
        keys=KnownKeys(database),
        default_project=project,
    )


def operation_id(route: APIRoute) -> str:
    return route.name
