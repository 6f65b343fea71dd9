"""`/v1/models`: base models that are here, and the project's tuned ones."""

from __future__ import annotations

import time
from typing import Literal

from fastapi import APIRouter
from sqlalchemy import select
from typing_extensions import TypedDict

from residency.errors import RequestError
from residency.server.api.files import Deleted
from residency.server.api.server import Reader, Trainer
from residency.server.api.strict_json import StrictRoute
from residency.server.database.tables import Model
from residency.server.names import base_model, base_models, unknown, usable_by

router = APIRouter(prefix="/models", tags=["models"], route_class=StrictRoute)

BASE_CREATED = 1_700_000_000
"""Base models were not made here, but clients want a time."""


class ModelObject(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[ModelObject]


def shape(id: str, created: float = BASE_CREATED, owner: str = "system") -> ModelObject:
    return {"id": id, "object": "model", "created": int(created), "owned_by": owner}


@router.get("")
def list_models(caller: Reader) -> ModelList:
    with caller.read() as session:
        rows = session.scalars(select(Model).where(*usable_by(caller.project_id)).order_by(Model.seq.desc())).all()
    tuned = [shape(row.id, row.created_at, caller.server.settings.organization) for row in rows]
    return {"object": "list", "data": [*map(shape, base_models(caller.server.settings)), *tuned]}


@router.get("/{model:path}")
def retrieve_model(caller: Reader, model: str) -> ModelObject:
    if not model.startswith("ft:"):
        base_model(caller.server.settings, model)
        return shape(model)
    with caller.read() as session:
        row = session.scalar(select(Model).where(Model.id == model, *usable_by(caller.project_id)))
    if row is None:
        raise unknown(model, "`client.models.list()` shows those that are there")
    return shape(row.id, row.created_at, caller.server.settings.organization)


@router.delete("/{model:path}")
def delete_model(caller: Trainer, model: str) -> Deleted:
    """Takes a tuned model out of use; its run folder stays on the server."""
    with caller.write() as session:
        own = (Model.id == model, Model.project_id == caller.project_id, Model.deleted_at.is_(None))
        row = session.scalar(select(Model).where(*own))
        if row is None and not model.startswith("ft:"):
            raise RequestError("only a fine-tuned model can be deleted", status=403, param="model",
                               code="cannot_delete_base_model")  # fmt: skip
        if row is None:
            raise unknown(model, "`client.models.list()` shows those that are there")
        row.deleted_at = time.time()
    return {"id": model, "object": "model", "deleted": True}
