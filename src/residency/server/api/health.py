"""What whoever runs the server asks: is it alive, can it work, what does it do?"""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from sqlalchemy import func, select
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from residency.errors import ResidencyError
from residency.server.api.server import Reader, Server
from residency.server.database.tables import Batch, EvalRun, Job

router = APIRouter(tags=["operation"])

QUEUES: dict[str, type[Job | EvalRun | Batch]] = {"jobs": Job, "eval_runs": EvalRun, "batches": Batch}
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0, 60.0)


class Metrics:
    """One server's figures; a registry of its own, so that two servers in one process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self.requests = Counter("residency_requests", "Requests answered", labels, registry=self.registry)
        self.seconds = Histogram("residency_request_seconds", "Time to the end of the answer", ("method", "route"),
                                 buckets=BUCKETS, registry=self.registry)  # fmt: skip
        self.work = Gauge("residency_work", "Rows by kind and status", ("kind", "status"), registry=self.registry)


class Measured:
    """Counts each request under its route, never under its path: ids would make a series each."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), "500"

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(scope["method"], route, status).inc()
            self.metrics.seconds.labels(scope["method"], route).observe(time.perf_counter() - began)


@router.get("/healthz")
async def alive() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz")
async def ready(request: Request) -> JSONResponse:
    """200 when the database answers; the inference process starts at its own pace and is only reported."""
    server: Server = request.app.state.server
    try:
        await run_in_threadpool(count_work, server)
    except ResidencyError as error:
        return JSONResponse({"database": error.code, "inference": "unknown"}, 503)
    inference = "ok" if await server.inference.ready() else "not ready"
    return JSONResponse({"database": "ok", "inference": inference})


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(caller: Reader, request: Request) -> PlainTextResponse:
    """In Prometheus' text format."""
    figures: Metrics = request.app.state.metrics
    for (kind, status), count in count_work(caller.server).items():
        figures.work.labels(kind, status).set(count)
    return PlainTextResponse(generate_latest(figures.registry), media_type=CONTENT_TYPE_LATEST)


def count_work(server: Server) -> dict[tuple[str, str], int]:
    with server.database.read() as session:
        return {
            (kind, status): count
            for kind, table in QUEUES.items()
            for status, count in session.execute(select(table.status, func.count()).group_by(table.status))
        }
