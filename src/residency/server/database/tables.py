"""Everything the server remembers, table by table.

`seq` counts rows in the order they were made: lists are paged by it. Times are Unix seconds. Files, run folders and
adapters lie outside; a row holds where.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, MetaData
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

from residency.server.ids import new_id

JSON_VALUE = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
COUNTER = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts only an INTEGER by itself


class Table(MappedAsDataclass, DeclarativeBase, kw_only=True):
    metadata = MetaData(naming_convention={
        "ix": "ix_%(column_0_label)s", "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s", "pk": "pk_%(table_name)s",
    })  # fmt: skip
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy's own attribute
        dict[str, Any]: JSON_VALUE, dict[str, str]: JSON_VALUE, list[str]: JSON_VALUE, list[dict[str, Any]]: JSON_VALUE,
        int: BigInteger,
    }  # fmt: skip


class Numbered(MappedAsDataclass, kw_only=True):
    """A row that lists show."""

    seq: Mapped[int] = mapped_column(COUNTER, primary_key=True, init=False)
    id: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[float] = mapped_column(default_factory=time.time)


class Work(MappedAsDataclass, kw_only=True):
    """A row that a worker carries out.

    One worker holds it until `lease_until`. `attempt` tells the tries apart: a worker that was thought dead cannot
    write over the next one's work.
    """

    status: Mapped[str] = mapped_column(index=True)
    worker: Mapped[str | None] = mapped_column(default=None)
    attempt: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[float] = mapped_column(default=0.0)
    wanted: Mapped[str | None] = mapped_column(default=None)
    """`cancel` or `pause`, as soon as the worker sees it."""
    progress: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    """The worker's own notes, so that a second attempt reports nothing twice."""
    started_at: Mapped[float | None] = mapped_column(default=None)
    finished_at: Mapped[float | None] = mapped_column(default=None)
    error: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """`{"code", "message", "param"}`."""


class Project(Numbered, Table, kw_only=True):
    __tablename__ = "projects"
    id: Mapped[str] = mapped_column(default_factory=lambda: new_id("proj_"), unique=True)
    name: Mapped[str] = mapped_column(unique=True)


class Owned(Numbered, kw_only=True):
    """A row that belongs to a project; to others it is as if it were not there."""

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)


class Key(Owned, Table, kw_only=True):
    __tablename__ = "keys"
    id: Mapped[str] = mapped_column(default_factory=lambda: new_id("key_"), unique=True)
    name: Mapped[str]
    digest: Mapped[str] = mapped_column(unique=True)
    """SHA-256 of the key; a key has 256 random bits, so nothing slower is needed."""
    scopes: Mapped[list[str]]
    """Of `train`, `infer`, `read`, `admin`."""
    revoked_at: Mapped[float | None] = mapped_column(default=None)


class File(Owned, Table, kw_only=True):
    __tablename__ = "files"
    id: Mapped[str] = mapped_column(default_factory=lambda: new_id("file-"), unique=True)
    filename: Mapped[str]
    """As the client named it; for display only, never a path."""
    purpose: Mapped[str]
    bytes: Mapped[int]
    expires_at: Mapped[float | None] = mapped_column(default=None)


class Upload(Owned, Table, kw_only=True):
    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(default_factory=lambda: new_id("upload_"), unique=True)
    bytes: Mapped[int]
    filename: Mapped[str]
    mime_type: Mapped[str]
    purpose: Mapped[str]
    expires_at: Mapped[float]
    file_expires_after: Mapped[int | None] = mapped_column(default=None)
    status: Mapped[str] = mapped_column(default="pending")
    file_id: Mapped[str | None] = mapped_column(default=None)


class UploadPart(Numbered, Table, kw_only=True):
    __tablename__ = "upload_parts"
    id: Mapped[str] = mapped_column(default_factory=lambda: new_id("part_"), unique=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), index=True)
    bytes: Mapped[int]


class Job(Owned, Work, Table, kw_only=True):
    """A fine-tuning job."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(default_factory=lambda: new_id("ftjob-"), unique=True)
    status: Mapped[str] = mapped_column(default="validating_files", index=True)
    model: Mapped[str]
    """As the client named it."""
    base: Mapped[str]
    """The starter model, a Hub id or a folder that this name stands for."""
    parent: Mapped[str | None] = mapped_column(default=None)
    """The adapter's folder, where an earlier result is trained further."""
    training_file: Mapped[str]
    validation_file: Mapped[str | None] = mapped_column(default=None)
    suffix: Mapped[str | None] = mapped_column(default=None)
    seed: Mapped[int]
    method: Mapped[dict[str, Any]]
    """`{"type": "supervised", "supervised": {"hyperparameters": {...}}}`; "auto" is replaced once it is known."""
    integrations: Mapped[list[dict[str, Any]] | None] = mapped_column(default=None)
    labels: Mapped[dict[str, str] | None] = mapped_column("metadata", JSON_VALUE, default=None)
    extensions: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    """What only Residency has: settings asked for in `extra_body`, later the verdict. Shown under `residency`."""
    fine_tuned_model: Mapped[str | None] = mapped_column(default=None)
    result_files: Mapped[list[str]] = mapped_column(default_factory=list)
    trained_tokens: Mapped[int | None] = mapped_column(default=None)
    estimated_finish: Mapped[float | None] = mapped_column(default=None)


class JobEvent(Numbered, Table, kw_only=True):
    __tablename__ = "job_events"
    id: Mapped[str] = mapped_column(default_factory=lambda: new_id("ftevent-"), unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    level: Mapped[str] = mapped_column(default="info")
    message: Mapped[str]
    type: Mapped[str] = mapped_column(default="message")
    data: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)


class Checkpoint(Numbered, Table, kw_only=True):
    __tablename__ = "checkpoints"
    id: Mapped[str] = mapped_column(default_factory=lambda: new_id("ftckpt_"), unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    name: Mapped[str]
    """The model it is: a row of `models`."""
    step_number: Mapped[int]
    metrics: Mapped[dict[str, Any]]


class Model(Owned, Table, kw_only=True):
    """A tuned model: a base and an adapter folder. Base models need no row."""

    __tablename__ = "models"
    id: Mapped[str] = mapped_column(unique=True)
    """`ft:base:org:suffix:xxxxxxxx`, for a checkpoint with `:ckpt-step-88` behind it."""
    base: Mapped[str]
    adapter: Mapped[str | None] = mapped_column(default=None)
    """The adapter's folder in PEFT's format; null where all weights were trained, and `base` is the folder then."""
    job_id: Mapped[str | None] = mapped_column(default=None, index=True)
    deleted_at: Mapped[float | None] = mapped_column(default=None)


class Permission(Numbered, Table, kw_only=True):
    """Lets another project use a checkpoint."""

    __tablename__ = "permissions"
    id: Mapped[str] = mapped_column(default_factory=lambda: new_id("cp_"), unique=True)
    model: Mapped[str] = mapped_column(index=True)
    project_id: Mapped[str]


class Eval(Owned, Table, kw_only=True):
    __tablename__ = "evals"
    id: Mapped[str] = mapped_column(default_factory=lambda: new_id("eval_"), unique=True)
    updated_at: Mapped[float] = mapped_column(default_factory=time.time)
    name: Mapped[str]
    data_source_config: Mapped[dict[str, Any]]
    testing_criteria: Mapped[list[dict[str, Any]]]
    labels: Mapped[dict[str, str] | None] = mapped_column("metadata", JSON_VALUE, default=None)


class EvalRun(Owned, Work, Table, kw_only=True):
    __tablename__ = "eval_runs"
    id: Mapped[str] = mapped_column(default_factory=lambda: new_id("evalrun_"), unique=True)
    status: Mapped[str] = mapped_column(default="queued", index=True)
    eval_id: Mapped[str] = mapped_column(ForeignKey("evals.id"), index=True)
    name: Mapped[str]
    model: Mapped[str]
    data_source: Mapped[dict[str, Any]]
    labels: Mapped[dict[str, str] | None] = mapped_column("metadata", JSON_VALUE, default=None)
    results: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    """`result_counts`, `per_testing_criteria_results` and `per_model_usage`, when it is over."""


class OutputItem(Numbered, Table, kw_only=True):
    __tablename__ = "eval_output_items"
    id: Mapped[str] = mapped_column(default_factory=lambda: new_id("outputitem_"), unique=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("eval_runs.id"), index=True)
    position: Mapped[int]
    """The row's number in its source, from 0."""
    status: Mapped[str]
    item: Mapped[dict[str, Any]]
    sample: Mapped[dict[str, Any]]
    results: Mapped[list[dict[str, Any]]]


class Batch(Owned, Work, Table, kw_only=True):
    __tablename__ = "batches"
    id: Mapped[str] = mapped_column(default_factory=lambda: new_id("batch_"), unique=True)
    status: Mapped[str] = mapped_column(default="validating", index=True)
    endpoint: Mapped[str]
    input_file_id: Mapped[str]
    completion_window: Mapped[str]
    expires_at: Mapped[float]
    output_expires_after: Mapped[int | None] = mapped_column(default=None)
    labels: Mapped[dict[str, str] | None] = mapped_column("metadata", JSON_VALUE, default=None)
    output_file_id: Mapped[str | None] = mapped_column(default=None)
    error_file_id: Mapped[str | None] = mapped_column(default=None)
    cancelling_at: Mapped[float | None] = mapped_column(default=None)
    counts: Mapped[dict[str, Any]] = mapped_column(default_factory=lambda: {"total": 0, "completed": 0, "failed": 0})


class StoredCompletion(Owned, Table, kw_only=True):
    """A chat completion that was asked for with `store: true`."""

    __tablename__ = "stored_completions"
    model: Mapped[str]
    labels: Mapped[dict[str, str] | None] = mapped_column("metadata", JSON_VALUE, default=None)
    messages: Mapped[list[dict[str, Any]]]
    completion: Mapped[dict[str, Any]]


class Device(Table, kw_only=True):
    """Who uses a device, and for what: one trainer and one inference process at most."""

    __tablename__ = "devices"
    name: Mapped[str] = mapped_column(primary_key=True)
    """`cpu`, `cuda:0` ..."""
    purpose: Mapped[str] = mapped_column(primary_key=True)
    """`training` or `inference`."""
    holder: Mapped[str]
    lease_until: Mapped[float]


Index("ix_jobs_claim", Job.status, Job.lease_until)
