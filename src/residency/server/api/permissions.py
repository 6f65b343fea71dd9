"""`/v1/fine_tuning/checkpoints/{checkpoint}/permissions`: which other projects may use a checkpoint."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.orm import Session
from typing_extensions import TypedDict

from residency.errors import RequestError
from residency.server.api.files import Deleted
from residency.server.api.pages import After, Page, as_page, page
from residency.server.api.server import Admin, Caller
from residency.server.api.strict_json import StrictRoute
from residency.server.database.tables import Model, Permission, Project
from residency.server.names import unknown

router = APIRouter(prefix="/fine_tuning/checkpoints", tags=["fine-tuning"], route_class=StrictRoute)

ORDERS: dict[str, Literal["asc", "desc"]] = {"ascending": "asc", "descending": "desc"}


class NewPermissions(BaseModel):
    project_ids: Annotated[list[str], Field(max_length=100)]


class PermissionObject(TypedDict):
    id: str
    object: Literal["checkpoint.permission"]
    created_at: int
    project_id: str


def shape(permission: Permission) -> PermissionObject:
    return {"id": permission.id, "object": "checkpoint.permission", "created_at": int(permission.created_at),
            "project_id": permission.project_id}  # fmt: skip


@router.post("/{checkpoint:path}/permissions")
def create_permissions(caller: Admin, checkpoint: str, body: NewPermissions) -> Page:
    """Needs a key with the scope `admin`, of the project that made the checkpoint."""
    with caller.write() as session:
        require_own(caller, session, checkpoint)
        made = []
        for project in dict.fromkeys(body.project_ids):
            if session.scalar(select(Project.seq).where(Project.id == project)) is None and not caller.lenient:
                raise RequestError(f"there is no project {project[:100]}", param="project_ids")
            granted = (Permission.model == checkpoint, Permission.project_id == project)
            permission = session.scalar(select(Permission).where(*granted))
            if permission is None:
                permission = Permission(model=checkpoint, project_id=project)
                session.add(permission)
            made.append(shape(permission))
    return as_page(list(made))


@router.get("/{checkpoint:path}/permissions")
def list_permissions(
    caller: Admin,
    checkpoint: str,
    after: After = None,
    limit: Annotated[int, Query(ge=0, le=100)] = 10,
    order: Literal["ascending", "descending"] = "descending",
    project_id: str | None = None,
) -> Page:
    query = select(Permission).where(Permission.model == checkpoint)
    if project_id is not None:
        query = query.where(Permission.project_id == project_id)
    with caller.read() as session:
        require_own(caller, session, checkpoint)
        return page(session, query, Permission, shape, after=after, limit=limit, order=ORDERS[order],
                    lenient=caller.lenient)  # fmt: skip


@router.delete("/{checkpoint:path}/permissions/{permission_id}")
def delete_permission(caller: Admin, checkpoint: str, permission_id: str) -> Deleted:
    with caller.write() as session:
        require_own(caller, session, checkpoint)
        granted = (Permission.id == permission_id, Permission.model == checkpoint)
        permission = session.scalar(select(Permission).where(*granted))
        if permission is None:
            raise RequestError(f"No such permission: {permission_id[:100]}", status=404, param="permission_id")
        session.delete(permission)
    return {"id": permission_id, "object": "checkpoint.permission", "deleted": True}


def require_own(caller: Caller, session: Session, checkpoint: str) -> None:
    own = (Model.id == checkpoint, Model.project_id == caller.project_id, Model.deleted_at.is_(None))
    if session.scalar(select(Model.seq).where(*own)) is None:
        raise unknown(checkpoint, "only the project that made a checkpoint shares it")
