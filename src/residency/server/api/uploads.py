"""`/v1/uploads`: a large file in parts, which may arrive side by side."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Literal, NotRequired

from fastapi import APIRouter, Path, UploadFile
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.orm import Session
from typing_extensions import TypedDict

from residency.errors import RequestError
from residency.server.api import files
from residency.server.api.server import Caller, Trainer
from residency.server.api.strict_json import StrictRoute
from residency.server.database.tables import File, Upload, UploadPart
from residency.wording import counted

router = APIRouter(tags=["uploads"], route_class=StrictRoute)

LIFE_SECONDS = 3600
PART_BYTES = 64 * 2**20
LARGEST_BODY_BYTES = PART_BYTES + 2**20
MOST_PARTS = 10_000
UploadId = Annotated[str, Path(description="The upload's id")]


class ExpiresAfter(BaseModel):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]


class NewUpload(BaseModel):
    bytes: Annotated[int, Field(ge=0)]
    filename: Annotated[str, Field(min_length=1)]
    mime_type: Annotated[str, Field(max_length=255)]
    purpose: files.Purpose
    expires_after: ExpiresAfter | None = None


class Completion(BaseModel):
    part_ids: Annotated[list[str], Field(max_length=MOST_PARTS)]
    """In the order in which they make the file."""
    md5: str | None = None
    """The whole file's digest, checked where it is given."""


class UploadObject(TypedDict):
    id: str
    object: Literal["upload"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: str
    file: NotRequired[files.FileObject]


class PartObject(TypedDict):
    id: str
    object: Literal["upload.part"]
    created_at: int
    upload_id: str


def shape(upload: Upload, file: File | None = None) -> UploadObject:
    expired = upload.status == "pending" and upload.expires_at < time.time()
    shown: UploadObject = {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.bytes,
        "created_at": int(upload.created_at),
        "expires_at": int(upload.expires_at),
        "filename": upload.filename,
        "purpose": files.SHOWN_PURPOSES.get(upload.purpose, upload.purpose),
        "status": "expired" if expired else upload.status,
    }
    if file:
        shown["file"] = files.shape(file)
    return shown


@router.post("/uploads")
def create_upload(caller: Trainer, body: NewUpload) -> UploadObject:
    """Announces a file; its parts must be there within an hour."""
    files.check_name(body.filename, body.purpose)
    most = caller.server.settings.most_upload_bytes
    if body.bytes > most:
        raise RequestError(f"an upload may have {most:,} bytes at most", param="bytes", code="file_too_large")
    upload = Upload(
        project_id=caller.project_id, bytes=body.bytes, filename=body.filename, mime_type=body.mime_type,
        purpose=body.purpose, expires_at=time.time() + LIFE_SECONDS,
        file_expires_after=body.expires_after.seconds if body.expires_after else None,
    )  # fmt: skip
    with caller.write() as session:
        session.add(upload)
    return shape(upload)


@router.post("/uploads/{upload_id}/parts", max_body_size=LARGEST_BODY_BYTES)
def create_part(caller: Trainer, upload_id: UploadId, data: UploadFile) -> PartObject:
    with caller.read() as session:
        require_pending(find_upload(caller, session, upload_id))
    part = UploadPart(upload_id=upload_id, bytes=0)
    part.bytes = caller.server.storage.write(part.id, data.file, most_bytes=PART_BYTES)
    try:
        with caller.write() as session:
            require_pending(locked(caller, session, upload_id))
            session.add(part)
    except RequestError:  # the upload has ended meanwhile
        caller.server.storage.delete(part.id)
        raise
    return {"id": part.id, "object": "upload.part", "created_at": int(part.created_at), "upload_id": upload_id}


@router.post("/uploads/{upload_id}/complete")
def complete_upload(caller: Trainer, upload_id: UploadId, body: Completion) -> UploadObject:
    """Joins the parts into a file. Asked twice, as after a lost answer, it gives the same file."""
    try:
        join(caller, upload_id, body)
    except RequestError:
        with caller.read() as session:
            if find_upload(caller, session, upload_id).status != "completed":
                raise  # else the other call was faster
    with caller.read() as session:
        upload = find_upload(caller, session, upload_id)
        return shape(upload, session.scalar(select(File).where(File.id == upload.file_id)))


def join(caller: Caller, upload_id: str, body: Completion) -> None:
    with caller.read() as session:
        upload = find_upload(caller, session, upload_id)
        require_pending(upload)
        parts = in_order(session, upload, body.part_ids)
    files.store(
        caller, joined(caller, parts, body.md5), upload.filename, upload.purpose,
        expires_after=upload.file_expires_after, most_bytes=upload.bytes, also=partial(complete, caller, upload_id),
    )  # fmt: skip
    drop_parts(caller, upload_id)


def complete(caller: Caller, upload_id: str, session: Session, file: File) -> None:
    """Raises RequestError where the upload has been completed or cancelled since."""
    upload = locked(caller, session, upload_id)
    if upload.status != "pending":
        raise RequestError(f"this upload is {upload.status}", param="upload_id")
    upload.status, upload.file_id = "completed", file.id


@router.post("/uploads/{upload_id}/cancel")
def cancel_upload(caller: Trainer, upload_id: UploadId) -> UploadObject:
    with caller.write() as session:
        upload = locked(caller, session, upload_id)
        if upload.status == "completed":
            raise RequestError("a completed upload cannot be cancelled; delete its file instead", param="upload_id")
        upload.status = "cancelled"
    drop_parts(caller, upload_id)
    return shape(upload)


def find_upload(caller: Caller, session: Session, id: str) -> Upload:
    return caller.find(session, Upload, id, "No such Upload object", param="upload_id")


def locked(caller: Caller, session: Session, id: str) -> Upload:
    """As it stands now, and nobody else changes it before this transaction is over."""
    upload = find_upload(caller, session, id)
    session.refresh(upload, with_for_update=True)
    return upload


def require_pending(upload: Upload) -> None:
    status = shape(upload)["status"]
    if status != "pending":
        raise RequestError(f"this upload is {status}", param="upload_id", hint="create a new one")


def in_order(session: Session, upload: Upload, ids: list[str]) -> list[UploadPart]:
    """Raises RequestError where a part is not of this upload, is named twice, or the sizes do not add up."""
    found = {part.id: part for part in session.scalars(select(UploadPart).where(UploadPart.upload_id == upload.id))}
    if missing := [id for id in ids if id not in found]:
        raise RequestError(f"this upload has no part {missing[0][:100]}", param="part_ids")
    if len(set(ids)) != len(ids):
        raise RequestError("a part is named twice", param="part_ids")
    total = sum(found[id].bytes for id in ids)
    if total != upload.bytes:
        raise RequestError(
            f"the parts have {counted(total, 'byte')}; {upload.bytes:,} were announced", param="part_ids"
        )
    return [found[id] for id in ids]


def joined(caller: Caller, parts: list[UploadPart], md5: str | None) -> Iterator[bytes]:
    digest = hashlib.md5(usedforsecurity=False)
    for part in parts:
        for block in caller.server.storage.blocks(part.id):
            digest.update(block)
            yield block
    if md5 is not None and digest.hexdigest() != md5.lower():
        raise RequestError("the file's MD5 is another: a part was damaged on its way", param="md5")


def drop_parts(caller: Caller, upload_id: str) -> None:
    with caller.write() as session:
        parts = session.scalars(select(UploadPart).where(UploadPart.upload_id == upload_id)).all()
        for part in parts:
            session.delete(part)
    for part in parts:
        caller.server.storage.delete(part.id)
