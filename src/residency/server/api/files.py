"""`/v1/files`"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from typing import IO, Annotated, Literal, NotRequired, TypeAlias

from fastapi import APIRouter, Form, Query, UploadFile
from fastapi.responses import StreamingResponse
from sqlalchemy import or_, select
from sqlalchemy.orm import Session
from typing_extensions import TypedDict

from residency.errors import RequestError, ResourceError
from residency.server.api.pages import After, Order, Page, page
from residency.server.api.server import Caller, Reader, Trainer
from residency.server.api.strict_json import StrictRoute
from residency.server.database.tables import File

router = APIRouter(tags=["files"], route_class=StrictRoute)

LARGEST_BODY_BYTES = 513 * 2**20
"""A file of 512 MiB and the form around it; an operator's own limit is held while the file is stored."""
Purpose: TypeAlias = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
SHOWN_PURPOSES = {"evals": "user_data"}
"""Strict clients know no such purpose in an answer."""
ExpiresAfter: TypeAlias = Annotated[int | None, Form(alias="expires_after[seconds]", ge=3600, le=2_592_000)]


class FileObject(TypedDict):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: NotRequired[int]
    filename: str
    purpose: str
    status: Literal["processed"]


class Deleted(TypedDict):
    id: str
    object: str
    deleted: bool


def shape(file: File) -> FileObject:
    shown: FileObject = {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at),
        "filename": file.filename,
        "purpose": SHOWN_PURPOSES.get(file.purpose, file.purpose),
        "status": "processed",
    }
    if file.expires_at:
        shown["expires_at"] = int(file.expires_at)
    return shown


@router.post("/files", max_body_size=LARGEST_BODY_BYTES)
def create_file(
    caller: Trainer,
    file: UploadFile,
    purpose: Annotated[Purpose, Form()],
    seconds: ExpiresAfter = None,
    anchor: Annotated[Literal["created_at"] | None, Form(alias="expires_after[anchor]")] = None,
) -> FileObject:
    """Stores a file; training files are checked when a job uses them."""
    name = file.filename or "upload"
    check_name(name, purpose)
    return shape(store(caller, file.file, name, purpose, expires_after=seconds))


def check_name(name: str, purpose: str) -> None:
    """Raises RequestError for a training file that is no JSONL; the clients call raw bytes `upload`."""
    if purpose in ("fine-tune", "batch") and "." in name and not name.endswith(".jsonl"):
        product = "Fine-Tuning" if purpose == "fine-tune" else "Batch"
        raise RequestError(f"Invalid file format for {product} API. Must be .jsonl", param="file",
                           code="invalid_file_format")  # fmt: skip
    if any(ord(character) < 32 for character in name) or len(name) > 255:
        raise RequestError("the file's name has control characters or is too long", param="file")


def store(caller: Caller, source: IO[bytes] | Iterator[bytes], name: str, purpose: str, *,
          expires_after: int | None = None, most_bytes: int | None = None,
          also: Callable[[Session, File], None] = lambda session, file: None) -> File:  # fmt: skip
    """First the bytes, then the row: a row without its file is never seen. `also` is done in the row's transaction;
    where it refuses, nothing is stored."""
    file = File(project_id=caller.project_id, filename=name, purpose=purpose, bytes=0)
    file.expires_at = file.created_at + expires_after if expires_after else None
    server = caller.server
    file.bytes = server.storage.write(file.id, source, most_bytes=most_bytes or server.settings.most_file_bytes)
    try:
        with caller.write() as session:
            session.add(file)
            also(session, file)
    except (RequestError, ResourceError) as error:
        if error.code != "database_unavailable":  # where the connection broke, the row may have been written
            server.storage.delete(file.id)
        raise
    return file


def find_file(caller: Caller, session: Session, id: str, *, param: str = "id") -> File:
    """Raises RequestError where the project has no such file, or had it until it expired."""
    file = caller.find(session, File, id, "No such File object", param=param)
    if file.expires_at and file.expires_at < time.time():
        raise RequestError(f"No such File object: {id} (it expired)", status=404, param=param)
    return file


@router.get("/files")
def list_files(
    caller: Reader,
    after: After = None,
    limit: Annotated[int, Query(ge=0, le=10_000)] = 10_000,
    order: Order = "desc",
    purpose: str | None = None,
) -> Page:
    query = select(File).where(
        File.project_id == caller.project_id, or_(File.expires_at.is_(None), File.expires_at > time.time())
    )
    if purpose is not None:
        query = query.where(File.purpose == purpose)
    with caller.read() as session:
        return page(session, query, File, shape, after=after, limit=limit, order=order, lenient=caller.lenient)


@router.get("/files/{file_id}")
async def retrieve_file(caller: Reader, file_id: str) -> FileObject:
    return await caller.look(lambda session: shape(find_file(caller, session, file_id)))


@router.delete("/files/{file_id}")
def delete_file(caller: Trainer, file_id: str) -> Deleted:
    """Deletes the bytes and the row; a job that has begun keeps its own copy."""
    with caller.write() as session:
        session.delete(find_file(caller, session, file_id))
    caller.server.storage.delete(file_id)
    return {"id": file_id, "object": "file", "deleted": True}


@router.get("/files/{file_id}/content", response_class=StreamingResponse)
def retrieve_content(caller: Reader, file_id: str) -> StreamingResponse:
    with caller.read() as session:
        file = find_file(caller, session, file_id)
    blocks = caller.server.storage.blocks(file.id)
    if file.purpose == "fine-tune-results" and caller.server.settings.results_base64:
        blocks = iter([base64.b64encode(b"".join(blocks))])
    return StreamingResponse(blocks, media_type="application/octet-stream")
