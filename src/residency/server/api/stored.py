"""Chat completions that were asked for with `store: true`: `/v1/chat/completions` and below."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from residency.server.api.files import Deleted
from residency.server.api.job_requests import Metadata
from residency.server.api.pages import After, Order, Page, as_page, metadata_filter, page
from residency.server.api.server import Caller, Inferrer, Reader
from residency.server.api.strict_json import StrictRoute
from residency.server.database.tables import StoredCompletion

router = APIRouter(prefix="/chat/completions", tags=["chat"], route_class=StrictRoute)


class Labels(BaseModel):
    metadata: Metadata | None = None


def keep(caller: Caller, completion: dict[str, Any], messages: list[dict[str, Any]],
         metadata: dict[str, str] | None) -> None:  # fmt: skip
    with caller.write() as session:
        session.add(StoredCompletion(project_id=caller.project_id, id=completion["id"], model=completion["model"],
                                     labels=metadata, messages=messages, completion=completion))  # fmt: skip


def shape(row: StoredCompletion) -> dict[str, Any]:
    return row.completion | {"metadata": row.labels}


@router.get("")
def list_stored(
    caller: Reader,
    request: Request,
    after: After = None,
    limit: Annotated[int, Query(ge=0, le=100)] = 20,
    order: Order = "asc",
    model: str | None = None,
) -> Page:
    query = select(StoredCompletion).where(
        StoredCompletion.project_id == caller.project_id, *metadata_filter(request, StoredCompletion.labels)
    )
    if model is not None:
        query = query.where(StoredCompletion.model == model)
    with caller.read() as session:
        return page(session, query, StoredCompletion, shape, after=after, limit=limit, order=order,
                    lenient=caller.lenient)  # fmt: skip


@router.get("/{completion_id}")
def retrieve_stored(caller: Reader, completion_id: str) -> dict[str, Any]:
    with caller.read() as session:
        return shape(find(caller, session, completion_id))


@router.post("/{completion_id}")
def update_stored(caller: Inferrer, completion_id: str, body: Labels) -> dict[str, Any]:
    with caller.write() as session:
        row = find(caller, session, completion_id)
        row.labels = body.metadata
    return shape(row)


@router.delete("/{completion_id}")
def delete_stored(caller: Inferrer, completion_id: str) -> Deleted:
    with caller.write() as session:
        session.delete(find(caller, session, completion_id))
    return {"id": completion_id, "object": "chat.completion.deleted", "deleted": True}


@router.get("/{completion_id}/messages")
def list_messages(caller: Reader, completion_id: str, after: After = None,
                  limit: Annotated[int, Query(ge=0, le=100)] = 20, order: Order = "asc") -> Page:  # fmt: skip
    """What was asked, message by message."""
    with caller.read() as session:
        row = find(caller, session, completion_id)
    shaped = [
        {"id": f"{row.id}-{number}", "content_parts": None, "refusal": None, **one}
        for number, one in enumerate(row.messages)
    ]
    ordered = shaped if order == "asc" else shaped[::-1]
    ids = [one["id"] for one in ordered]
    start = ids.index(after) + 1 if after in ids else 0
    return as_page(ordered[start : start + limit], has_more=len(ordered) > start + limit)


def find(caller: Caller, session: Session, id: str) -> StoredCompletion:
    return caller.find(session, StoredCompletion, id, "No such chat completion", param="completion_id")
