"""`/v1/fine_tuning/jobs`: making and steering jobs; workers do them."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from fastapi import APIRouter, Query, Request
from sqlalchemy import select
from sqlalchemy.orm import Session
from typing_extensions import TypedDict

from residency.errors import RequestError
from residency.server.api.errors import SHOWN_PROBLEMS
from residency.server.api.files import find_file
from residency.server.api.job_requests import NewJob, method_of, unknown_keys
from residency.server.api.pages import After, Page, metadata_filter, page
from residency.server.api.server import Caller, Reader, Trainer
from residency.server.api.strict_json import StrictRoute
from residency.server.database.queue import append_event
from residency.server.database.tables import Checkpoint, Job, JobEvent
from residency.server.job_settings import run_config
from residency.server.names import resolve

router = APIRouter(prefix="/fine_tuning/jobs", tags=["fine-tuning"], route_class=StrictRoute)

OVER = ("succeeded", "failed", "cancelled")
NO_JOB = "Could not find fine tune"


class JobObject(TypedDict):
    id: str
    object: Literal["fine_tuning.job"]
    created_at: int
    finished_at: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: str
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    error: dict[str, Any] | None
    user_provided_suffix: str | None
    seed: int
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    estimated_finish: int | None
    integrations: list[dict[str, Any]] | None
    metadata: dict[str, str] | None
    shared_with_openai: bool
    usage_metrics: None
    residency: NotRequired[dict[str, Any]]


class EventObject(TypedDict):
    id: str
    object: Literal["fine_tuning.job.event"]
    created_at: int
    level: str
    message: str
    type: str
    data: dict[str, Any]


class CheckpointObject(TypedDict):
    id: str
    object: Literal["fine_tuning.job.checkpoint"]
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, Any]


def shape(job: Job, organization: str) -> JobObject:
    block = job.method.get(job.method["type"]) or {}
    running = job.status == "running"
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": int(job.created_at),
        "finished_at": int(job.finished_at) if job.finished_at else None,
        "model": job.model,
        "fine_tuned_model": job.fine_tuned_model,
        "organization_id": organization,
        "status": "running" if job.status == "pausing" else job.status,
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "result_files": job.result_files,
        "trained_tokens": job.trained_tokens,
        "error": job.error,
        "user_provided_suffix": job.suffix,
        "seed": job.seed,
        "hyperparameters": block.get("hyperparameters") or {},
        "method": job.method,
        "estimated_finish": int(job.estimated_finish) if running and job.estimated_finish else None,
        "integrations": job.integrations,
        "metadata": job.labels,
        "shared_with_openai": False,
        "usage_metrics": None,
        "residency": job.extensions,
    }


def shape_event(event: JobEvent) -> EventObject:
    return {"id": event.id, "object": "fine_tuning.job.event", "created_at": int(event.created_at),
            "level": event.level, "message": event.message, "type": event.type, "data": event.data}  # fmt: skip


def shape_checkpoint(checkpoint: Checkpoint) -> CheckpointObject:
    return {
        "id": checkpoint.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": int(checkpoint.created_at),
        "fine_tuned_model_checkpoint": checkpoint.name,
        "fine_tuning_job_id": checkpoint.job_id,
        "step_number": checkpoint.step_number,
        "metrics": checkpoint.metrics,
    }


@router.post("")
def create_job(caller: Trainer, body: NewJob) -> JobObject:
    """Queues a job. Settings that make no run are refused; a wrong file makes the job `failed`, with its `error`."""
    method = method_of(body)
    settings = caller.server.settings
    with caller.write() as session:
        target = resolve(session, settings, caller.project_id, body.model)
        for param in ("training_file", "validation_file"):
            if (file := getattr(body, param)) is not None:
                find_file(caller, session, file, param=param)
        job = Job(
            project_id=caller.project_id, model=body.model, base=target.base, parent=target.adapter,
            training_file=body.training_file, validation_file=body.validation_file, suffix=body.suffix,
            seed=secrets.randbelow(2**31) if body.seed is None else body.seed, method=method,
            integrations=[one.model_dump() for one in body.integrations] if body.integrations else None,
            labels=body.metadata, extensions={"settings": body.residency} if body.residency else {},
        )  # fmt: skip
        run_config(job, Path(job.training_file), Path(job.validation_file) if job.validation_file else None)
        session.add(job)
        session.flush()
        stands_for = "" if target.base == body.model else f"; `{body.model}` stands for {shown(target.base)} here"
        append_event(session, job.id, f"Created fine-tuning job: {job.id}{stands_for}")
        if unknown := unknown_keys(body):
            said = f"Keys that mean nothing here and are left out: {', '.join(unknown[:SHOWN_PROBLEMS])}"
            append_event(session, job.id, said, level="warn")
    return shape(job, settings.organization)


def shown(base: str) -> str:
    """A base in words; an operator's folder is called by its last part alone."""
    return base.rstrip("/").rpartition("/")[2] if base.startswith(("/", "~", ".")) else base


@router.get("")
async def list_jobs(
    caller: Reader, request: Request, after: After = None, limit: Annotated[int, Query(ge=0, le=100)] = 20
) -> Page:
    """Newest first; `metadata[key]=value` filters, and `metadata=null` gives those without metadata."""
    query = select(Job).where(Job.project_id == caller.project_id, *metadata_filter(request, Job.labels))
    organization = caller.server.settings.organization
    return await caller.look(lambda session: page(
        session, query, Job, lambda job: shape(job, organization), after=after, limit=limit, lenient=caller.lenient
    ))  # fmt: skip


@router.get("/{job_id}")
async def retrieve_job(caller: Reader, job_id: str) -> JobObject:
    organization = caller.server.settings.organization
    return await caller.look(lambda session: shape(find_job(caller, session, job_id), organization))


def find_job(caller: Caller, session: Session, id: str) -> Job:
    return caller.find(session, Job, id, NO_JOB, param="fine_tune_id", code="fine_tune_not_found")


@router.post("/{job_id}/cancel")
def cancel_job(caller: Trainer, job_id: str) -> JobObject:
    """At once where no worker holds the job; else as soon as its worker has stopped the trainer."""
    return steer(caller, job_id, "cancel")


@router.post("/{job_id}/pause")
def pause_job(caller: Trainer, job_id: str) -> JobObject:
    """The job shows as `running` until its checkpoint is written, and as `paused` from then on."""
    return steer(caller, job_id, "pause")


@router.post("/{job_id}/resume")
def resume_job(caller: Trainer, job_id: str) -> JobObject:
    return steer(caller, job_id, "resume")


def steer(caller: Caller, job_id: str, verb: Literal["cancel", "pause", "resume"]) -> JobObject:
    with caller.write() as session:
        job = find_job(caller, session, job_id)
        session.refresh(job, with_for_update=True)
        if job.status in OVER:
            raise RequestError(f"Job has already {job.status}: {job_id}" if job.status != "cancelled" else
                               f"Job was already cancelled: {job_id}", param="fine_tune_id",
                               code=f"cannot_{verb}")  # fmt: skip
        {"cancel": cancel, "pause": pause, "resume": resume}[verb](session, job)
    return shape(job, caller.server.settings.organization)


def cancel(session: Session, job: Job) -> None:
    """The lease of a worker that is alive runs on: what it holds, it must end itself."""
    if job.lease_until > time.time():
        job.wanted = "cancel"
        return
    job.status, job.finished_at, job.wanted = "cancelled", time.time(), None
    job.attempt += 1  # a worker that comes back from the dead has lost it
    append_event(session, job.id, "Fine-tuning job cancelled")


def pause(session: Session, job: Job) -> None:
    if job.status == "running":
        job.status, job.wanted = "pausing", "pause"
    elif job.status == "queued" and job.lease_until <= time.time():
        job.status = "paused"
        append_event(session, job.id, "Fine-tuning job paused before it began")
    elif job.status not in ("pausing", "paused"):
        raise RequestError(f"Job is {job.status} and cannot be paused yet: {job.id}", code="cannot_pause",
                           param="fine_tune_id", hint="wait until it is running")  # fmt: skip


def resume(session: Session, job: Job) -> None:
    if job.status == "paused":
        job.status = "queued"
        append_event(session, job.id, "Fine-tuning job resumed")
    elif job.status not in ("queued", "running"):
        raise RequestError(f"Job is {job.status} and cannot be resumed: {job.id}", code="cannot_resume",
                           param="fine_tune_id", hint="only a paused job can")  # fmt: skip


@router.get("/{job_id}/events")
async def list_events(caller: Reader, job_id: str, after: After = None,
                limit: Annotated[int, Query(ge=0, le=1000)] = 20) -> Page:  # fmt: skip
    """Newest first."""

    def look(session: Session) -> Page:
        find_job(caller, session, job_id)
        query = select(JobEvent).where(JobEvent.job_id == job_id)
        return page(session, query, JobEvent, shape_event, after=after, limit=limit, lenient=caller.lenient)

    return await caller.look(look)


@router.get("/{job_id}/checkpoints")
async def list_checkpoints(caller: Reader, job_id: str, after: After = None,
                     limit: Annotated[int, Query(ge=0, le=100)] = 10) -> Page:  # fmt: skip
    """Newest first; the final model is among them."""

    def look(session: Session) -> Page:
        find_job(caller, session, job_id)
        query = select(Checkpoint).where(Checkpoint.job_id == job_id)
        return page(session, query, Checkpoint, shape_checkpoint, after=after, limit=limit, lenient=caller.lenient)

    return await caller.look(look)
