"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def devices() -> None:
    op.create_table(
        "devices",
        sa.Column("name", sa.String, nullable=False),
        sa.Column("purpose", sa.String, nullable=False),
        sa.Column("holder", sa.String, nullable=False),
        sa.Column("lease_until", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", "purpose", name=op.f("pk_devices")),
    )


def permissions() -> None:
    op.create_table(
        "permissions",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("project_id", sa.String, nullable=False),
        sa.Column("seq", COUNTER, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_permissions")),
        sa.UniqueConstraint("id", name=op.f("uq_permissions_id")),
    )
    op.create_index(op.f("ix_permissions_model"), "permissions", ["model"], unique=False)


def projects() -> None:
    op.create_table(
        "projects",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("seq", COUNTER, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_projects")),
        sa.UniqueConstraint("id", name=op.f("uq_projects_id")),
        sa.UniqueConstraint("name", name=op.f("uq_projects_name")),
    )


def batches() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("endpoint", sa.String, nullable=False),
        sa.Column("input_file_id", sa.String, nullable=False),
        sa.Column("completion_window", sa.String, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("output_expires_after", sa.BigInteger, nullable=True),
        sa.Column("metadata", JSON, nullable=True),
        sa.Column("output_file_id", sa.String, nullable=True),
        sa.Column("error_file_id", sa.String, nullable=True),
        sa.Column("cancelling_at", sa.Double, nullable=True),
        sa.Column("counts", JSON, nullable=False),
        sa.Column("seq", COUNTER, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column(
            "project_id", sa.String, sa.ForeignKey("projects.id", name=op.f("fk_batches_project_id")), nullable=False
        ),
        sa.Column("worker", sa.String, nullable=True),
        sa.Column("attempt", sa.BigInteger, nullable=False),
        sa.Column("lease_until", sa.Double, nullable=False),
        sa.Column("wanted", sa.String, nullable=True),
        sa.Column("progress", JSON, nullable=False),
        sa.Column("started_at", sa.Double, nullable=True),
        sa.Column("finished_at", sa.Double, nullable=True),
        sa.Column("error", JSON, nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_batches")),
        sa.UniqueConstraint("id", name=op.f("uq_batches_id")),
    )
    op.create_index(op.f("ix_batches_project_id"), "batches", ["project_id"], unique=False)
    op.create_index(op.f("ix_batches_status"), "batches", ["status"], unique=False)


def evals() -> None:
    op.create_table(
        "evals",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("data_source_config", JSON, nullable=False),
        sa.Column("testing_criteria", JSON, nullable=False),
        sa.Column("metadata", JSON, nullable=True),
        sa.Column("seq", COUNTER, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column(
            "project_id", sa.String, sa.ForeignKey("projects.id", name=op.f("fk_evals_project_id")), nullable=False
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_evals")),
        sa.UniqueConstraint("id", name=op.f("uq_evals_id")),
    )
    op.create_index(op.f("ix_evals_project_id"), "evals", ["project_id"], unique=False)


def files() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("filename", sa.String, nullable=False),
        sa.Column("purpose", sa.String, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=True),
        sa.Column("seq", COUNTER, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column(
            "project_id", sa.String, sa.ForeignKey("projects.id", name=op.f("fk_files_project_id")), nullable=False
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_files")),
        sa.UniqueConstraint("id", name=op.f("uq_files_id")),
    )
    op.create_index(op.f("ix_files_project_id"), "files", ["project_id"], unique=False)


def jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("base", sa.String, nullable=False),
        sa.Column("parent", sa.String, nullable=True),
        sa.Column("training_file", sa.String, nullable=False),
        sa.Column("validation_file", sa.String, nullable=True),
        sa.Column("suffix", sa.String, nullable=True),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("method", JSON, nullable=False),
        sa.Column("integrations", JSON, nullable=True),
        sa.Column("metadata", JSON, nullable=True),
        sa.Column("extensions", JSON, nullable=False),
        sa.Column("fine_tuned_model", sa.String, nullable=True),
        sa.Column("result_files", JSON, nullable=False),
        sa.Column("trained_tokens", sa.BigInteger, nullable=True),
        sa.Column("estimated_finish", sa.Double, nullable=True),
        sa.Column("seq", COUNTER, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column(
            "project_id", sa.String, sa.ForeignKey("projects.id", name=op.f("fk_jobs_project_id")), nullable=False
        ),
        sa.Column("worker", sa.String, nullable=True),
        sa.Column("attempt", sa.BigInteger, nullable=False),
        sa.Column("lease_until", sa.Double, nullable=False),
        sa.Column("wanted", sa.String, nullable=True),
        sa.Column("progress", JSON, nullable=False),
        sa.Column("started_at", sa.Double, nullable=True),
        sa.Column("finished_at", sa.Double, nullable=True),
        sa.Column("error", JSON, nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_jobs")),
        sa.UniqueConstraint("id", name=op.f("uq_jobs_id")),
    )
    op.create_index(op.f("ix_jobs_claim"), "jobs", ["status", "lease_until"], unique=False)
    op.create_index(op.f("ix_jobs_project_id"), "jobs", ["project_id"], unique=False)
    op.create_index(op.f("ix_jobs_status"), "jobs", ["status"], unique=False)


def keys() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("scopes", JSON, nullable=False),
        sa.Column("revoked_at", sa.Double, nullable=True),
        sa.Column("seq", COUNTER, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column(
            "project_id", sa.String, sa.ForeignKey("projects.id", name=op.f("fk_keys_project_id")), nullable=False
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_keys_digest")),
        sa.UniqueConstraint("id", name=op.f("uq_keys_id")),
    )
    op.create_index(op.f("ix_keys_project_id"), "keys", ["project_id"], unique=False)


def models() -> None:
    op.create_table(
        "models",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("base", sa.String, nullable=False),
        sa.Column("adapter", sa.String, nullable=True),
        sa.Column("job_id", sa.String, nullable=True),
        sa.Column("deleted_at", sa.Double, nullable=True),
        sa.Column("seq", COUNTER, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column(
            "project_id", sa.String, sa.ForeignKey("projects.id", name=op.f("fk_models_project_id")), nullable=False
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_models")),
        sa.UniqueConstraint("id", name=op.f("uq_models_id")),
    )
    op.create_index(op.f("ix_models_job_id"), "models", ["job_id"], unique=False)
    op.create_index(op.f("ix_models_project_id"), "models", ["project_id"], unique=False)


def stored_completions() -> None:
    op.create_table(
        "stored_completions",
        sa.Column("model", sa.String, nullable=False),
        sa.Column("metadata", JSON, nullable=True),
        sa.Column("messages", JSON, nullable=False),
        sa.Column("completion", JSON, nullable=False),
        sa.Column("seq", COUNTER, nullable=False),
        sa.Column("id", sa.String, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column(
            "project_id",
            sa.String,
            sa.ForeignKey("projects.id", name=op.f("fk_stored_completions_project_id")),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_stored_completions")),
        sa.UniqueConstraint("id", name=op.f("uq_stored_completions_id")),
    )
    op.create_index(op.f("ix_stored_completions_project_id"), "stored_completions", ["project_id"], unique=False)


def uploads() -> None:
    op.create_table(
        "uploads",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("filename", sa.String, nullable=False),
        sa.Column("mime_type", sa.String, nullable=False),
        sa.Column("purpose", sa.String, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("file_expires_after", sa.BigInteger, nullable=True),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("file_id", sa.String, nullable=True),
        sa.Column("seq", COUNTER, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column(
            "project_id", sa.String, sa.ForeignKey("projects.id", name=op.f("fk_uploads_project_id")), nullable=False
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_uploads")),
        sa.UniqueConstraint("id", name=op.f("uq_uploads_id")),
    )
    op.create_index(op.f("ix_uploads_project_id"), "uploads", ["project_id"], unique=False)


def checkpoints() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("job_id", sa.String, sa.ForeignKey("jobs.id", name=op.f("fk_checkpoints_job_id")), nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("step_number", sa.BigInteger, nullable=False),
        sa.Column("metrics", JSON, nullable=False),
        sa.Column("seq", COUNTER, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_checkpoints")),
        sa.UniqueConstraint("id", name=op.f("uq_checkpoints_id")),
    )
    op.create_index(op.f("ix_checkpoints_job_id"), "checkpoints", ["job_id"], unique=False)


def eval_runs() -> None:
    op.create_table(
        "eval_runs",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("eval_id", sa.String, sa.ForeignKey("evals.id", name=op.f("fk_eval_runs_eval_id")), nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("data_source", JSON, nullable=False),
        sa.Column("metadata", JSON, nullable=True),
        sa.Column("results", JSON, nullable=False),
        sa.Column("seq", COUNTER, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column(
            "project_id", sa.String, sa.ForeignKey("projects.id", name=op.f("fk_eval_runs_project_id")), nullable=False
        ),
        sa.Column("worker", sa.String, nullable=True),
        sa.Column("attempt", sa.BigInteger, nullable=False),
        sa.Column("lease_until", sa.Double, nullable=False),
        sa.Column("wanted", sa.String, nullable=True),
        sa.Column("progress", JSON, nullable=False),
        sa.Column("started_at", sa.Double, nullable=True),
        sa.Column("finished_at", sa.Double, nullable=True),
        sa.Column("error", JSON, nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_eval_runs")),
        sa.UniqueConstraint("id", name=op.f("uq_eval_runs_id")),
    )
    op.create_index(op.f("ix_eval_runs_eval_id"), "eval_runs", ["eval_id"], unique=False)
    op.create_index(op.f("ix_eval_runs_project_id"), "eval_runs", ["project_id"], unique=False)
    op.create_index(op.f("ix_eval_runs_status"), "eval_runs", ["status"], unique=False)


def job_events() -> None:
    op.create_table(
        "job_events",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("job_id", sa.String, sa.ForeignKey("jobs.id", name=op.f("fk_job_events_job_id")), nullable=False),
        sa.Column("level", sa.String, nullable=False),
        sa.Column("message", sa.String, nullable=False),
        sa.Column("type", sa.String, nullable=False),
        sa.Column("data", JSON, nullable=False),
        sa.Column("seq", COUNTER, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_job_events")),
        sa.UniqueConstraint("id", name=op.f("uq_job_events_id")),
    )
    op.create_index(op.f("ix_job_events_job_id"), "job_events", ["job_id"], unique=False)


def upload_parts() -> None:
    op.create_table(
        "upload_parts",
        sa.Column("id", sa.String, nullable=False),
        sa.Column(
            "upload_id", sa.String, sa.ForeignKey("uploads.id", name=op.f("fk_upload_parts_upload_id")), nullable=False
        ),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("seq", COUNTER, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_upload_parts")),
        sa.UniqueConstraint("id", name=op.f("uq_upload_parts_id")),
    )
    op.create_index(op.f("ix_upload_parts_upload_id"), "upload_parts", ["upload_id"], unique=False)


def eval_output_items() -> None:
    op.create_table(
        "eval_output_items",
        sa.Column("id", sa.String, nullable=False),
        sa.Column(
            "run_id", sa.String, sa.ForeignKey("eval_runs.id", name=op.f("fk_eval_output_items_run_id")), nullable=False
        ),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("item", JSON, nullable=False),
        sa.Column("sample", JSON, nullable=False),
        sa.Column("results", JSON, nullable=False),
        sa.Column("seq", COUNTER, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_eval_output_items")),
        sa.UniqueConstraint("id", name=op.f("uq_eval_output_items_id")),
    )
    op.create_index(op.f("ix_eval_output_items_run_id"), "eval_output_items", ["run_id"], unique=False)


def upgrade() -> None:
    devices()
    permissions()
    projects()
    batches()
    evals()
    files()
    jobs()
    keys()
    models()
    stored_completions()
    uploads()
    checkpoints()
    eval_runs()
    job_events()
    upload_parts()
    eval_output_items()
