"""Lists in OpenAI's shape, a page at a time, with the last id of a page as the cursor to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from fastapi import Query, Request
from sqlalchemy import ColumnElement, Select
from sqlalchemy.orm import Session
from typing_extensions import TypedDict

from residency.errors import RequestError
from residency.server.database.tables import Numbered

T = TypeVar("T", bound=Numbered)

After: TypeAlias = Annotated[str | None, Query(description="The last id of the page before")]
Limit20: TypeAlias = Annotated[int, Query(ge=0, le=100)]
Order: TypeAlias = Literal["asc", "desc"]


class Page(TypedDict):
    object: Literal["list"]
    data: list[Any]
    first_id: str | None
    last_id: str | None
    has_more: bool


def page(session: Session, query: Select[T], table: type[T], shape: Callable[[T], Any], *, after: str | None,
         limit: int, order: Order = "desc", lenient: bool = False) -> Page:  # fmt: skip
    """The rows of `query` behind `after`. Raises RequestError where `after` is none of them, unless `lenient`."""
    if after is not None:
        start = session.scalar(query.with_only_columns(table.seq).where(table.id == after))
        if start is not None:
            query = query.where(table.seq < start if order == "desc" else table.seq > start)
        elif not lenient:
            raise RequestError(f"No such object to list after: {after[:100]}", param="after")
    ordered = query.order_by(table.seq.desc() if order == "desc" else table.seq.asc())
    rows = session.scalars(ordered.limit(limit + 1)).all()
    return as_page([shape(row) for row in rows[:limit]], has_more=len(rows) > limit > 0)


def as_page(data: list[Any], *, has_more: bool = False) -> Page:
    ids = [one["id"] for one in data]
    return {"object": "list", "data": data, "first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None,
            "has_more": has_more}  # fmt: skip


def metadata_filter(request: Request, column: Any) -> list[ColumnElement[bool]]:
    """`?metadata[key]=value`, each pair; `?metadata=null` are the rows without any."""
    conditions: list[ColumnElement[bool]] = []
    for name, value in request.query_params.multi_items():
        if name.startswith("metadata[") and name.endswith("]"):
            conditions.append(column[name[9:-1]].as_string() == value)
        elif name == "metadata" and value == "null":
            conditions.append(column.is_(None))
    return conditions
