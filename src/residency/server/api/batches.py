"""`/v1/batches`: many requests in one file."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.orm import Session
from typing_extensions import TypedDict

from residency.errors import RequestError
from residency.server.api.files import find_file
from residency.server.api.job_requests import Metadata
from residency.server.api.pages import After, Limit20, Page, page
from residency.server.api.server import Caller, Inferrer, Reader
from residency.server.api.strict_json import StrictRoute
from residency.server.batches import ENDPOINTS
from residency.server.database.tables import Batch

router = APIRouter(prefix="/batches", tags=["batches"], route_class=StrictRoute)

OVER = ("completed", "failed", "cancelled")
DAY_SECONDS = 86_400


class OutputExpiresAfter(BaseModel):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]


class NewBatch(BaseModel):
    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: OutputExpiresAfter | None = None


class BatchObject(TypedDict):
    id: str
    object: Literal["batch"]
    endpoint: str
    errors: dict[str, Any] | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int | None
    completed_at: int | None
    failed_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: dict[str, int]
    metadata: dict[str, str] | None


def shape(batch: Batch) -> BatchObject:
    ended = int(batch.finished_at) if batch.finished_at else None
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": shape_errors(batch.error) if batch.error else None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": "cancelling" if batch.wanted == "cancel" else batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": int(batch.created_at),
        "in_progress_at": int(batch.started_at) if batch.started_at else None,
        "expires_at": int(batch.expires_at),
        "completed_at": ended if batch.status == "completed" else None,
        "failed_at": ended if batch.status == "failed" else None,
        "cancelling_at": int(batch.cancelling_at) if batch.cancelling_at else None,
        "cancelled_at": ended if batch.status == "cancelled" else None,
        "request_counts": batch.counts,
        "metadata": batch.labels,
    }


def shape_errors(error: dict[str, Any]) -> dict[str, Any]:
    first = {key: value for key, value in error.items() if key != "others"}
    return {"object": "list", "data": [first, *error.get("others", [])]}


@router.post("")
def create_batch(caller: Inferrer, body: NewBatch) -> BatchObject:
    """Queues the requests of a file; its lines are checked before the first is sent."""
    if body.endpoint not in ENDPOINTS and not caller.lenient:
        raise RequestError(f"batches cannot be sent to {body.endpoint[:100]}", param="endpoint",
                           hint=f"choose from {', '.join(ENDPOINTS)}")  # fmt: skip
    expires = body.output_expires_after
    with caller.write() as session:
        find_file(caller, session, body.input_file_id, param="input_file_id")
        batch = Batch(
            project_id=caller.project_id, endpoint=body.endpoint, input_file_id=body.input_file_id,
            completion_window=body.completion_window, expires_at=time.time() + DAY_SECONDS, labels=body.metadata,
            output_expires_after=expires.seconds if expires else None,
        )  # fmt: skip
        session.add(batch)
    return shape(batch)


@router.get("")
def list_batches(caller: Reader, after: After = None, limit: Limit20 = 20) -> Page:
    query = select(Batch).where(Batch.project_id == caller.project_id)
    with caller.read() as session:
        return page(session, query, Batch, shape, after=after, limit=limit, lenient=caller.lenient)


@router.get("/{batch_id}")
async def retrieve_batch(caller: Reader, batch_id: str) -> BatchObject:
    return await caller.look(lambda session: shape(find_batch(caller, session, batch_id)))


@router.post("/{batch_id}/cancel")
def cancel_batch(caller: Inferrer, batch_id: str) -> BatchObject:
    """What was answered until then is kept in the output file."""
    with caller.write() as session:
        batch = find_batch(caller, session, batch_id)
        session.refresh(batch, with_for_update=True)
        if batch.status in OVER:
            raise RequestError(f"this batch has {batch.status} already", param="batch_id", code="cannot_cancel")
        batch.cancelling_at = batch.cancelling_at or time.time()
        if batch.lease_until > time.time() or batch.status != "validating":
            batch.wanted = "cancel"
        else:
            batch.status, batch.finished_at, batch.attempt = "cancelled", time.time(), batch.attempt + 1
    return shape(batch)


def find_batch(caller: Caller, session: Session, id: str) -> Batch:
    return caller.find(session, Batch, id, "No such Batch object", param="batch_id")
