"""What a worker does with the database: take work, keep it, report on it, end it.

Every change after `claim` names the attempt that makes it. Where another worker has taken over since, nothing is
written and LeaseLost is raised: the work goes on elsewhere, and this worker drops it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from residency.server.database.tables import Batch, Checkpoint, Device, EvalRun, Job, JobEvent, Model

log = logging.getLogger(__name__)
LEASE_SECONDS = 30.0
"""Without a heartbeat for this long, the work is anybody's."""

W = TypeVar("W", Job, EvalRun, Batch)


class LeaseLost(Exception):
    """Another worker has this work now."""


def claim(
    session: Session, table: type[W], worker: str, statuses: tuple[str, ...], ids: Sequence[str] | None = None
) -> W | None:
    """The oldest free row in one of `statuses`, of `ids` if given, now held by `worker`; in one statement, so no row
    goes to two."""
    now = time.time()
    among = () if ids is None else (table.id.in_(ids),)
    free = (
        select(table.seq)
        .where(table.status.in_(statuses), table.lease_until < now, *among)
        .order_by(table.seq)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    values = {"worker": worker, "attempt": table.attempt + 1, "lease_until": now + LEASE_SECONDS}
    statement = update(table).where(table.seq == free.scalar_subquery()).values(values).returning(table)
    return session.scalars(statement, execution_options={"synchronize_session": False}).one_or_none()


def heartbeat(session: Session, work: Job | EvalRun | Batch) -> str | None:
    """Keeps the work for another LEASE_SECONDS; returns what the client wants of it: `cancel`, `pause` or nothing."""
    table = type(work)
    keep(session, work, lease_until=time.time() + LEASE_SECONDS)
    return session.scalar(select(table.wanted).where(table.id == work.id))


def keep(session: Session, work: Job | EvalRun | Batch, **values: Any) -> None:
    """Writes `values` into the row that this attempt still holds. Raises LeaseLost."""
    table = type(work)
    held = (table.id == work.id, table.attempt == work.attempt, table.worker == work.worker)
    changed = session.execute(update(table).where(*held).values(values).returning(table.id)).all()
    if not changed:
        raise LeaseLost(work.id)


def release(session: Session, work: Job | EvalRun | Batch, status: str, **values: Any) -> None:
    """Ends this attempt: with a final status, or with one that others may claim."""
    keep(session, work, status=status, worker=None, lease_until=0.0, wanted=None, **values)
    error = values.get("error")
    log.info("%s: %s", work.id, f"{status} ({error['code']})" if error else status)


def put_back(session: Session, work: EvalRun | Batch, status: str) -> None:
    """Ends this attempt alone; whoever takes the work next hears what the client wants of it."""
    keep(session, work, status=status, worker=None, lease_until=0.0)


def append_event(session: Session, job_id: str, message: str, *, level: str = "info", type: str = "message",
                 data: dict[str, Any] | None = None) -> None:  # fmt: skip
    session.add(JobEvent(job_id=job_id, message=message, level=level, type=type, data=data or {}))


def record_checkpoint(session: Session, job: Job, name: str, adapter: str, *, step: int,
                      metrics: dict[str, Any]) -> None:  # fmt: skip
    """Makes the adapter folder usable as the model `name`; saying it twice changes nothing."""
    if session.scalar(select(Model.seq).where(Model.id == name)) is None:
        session.add(Model(id=name, project_id=job.project_id, base=job.base, adapter=adapter, job_id=job.id))
        session.add(Checkpoint(job_id=job.id, name=name, step_number=step, metrics=metrics))


def lease_device(session: Session, device: str, purpose: str, holder: str) -> bool:
    """Takes or keeps a device for LEASE_SECONDS; false while somebody else has it for the same purpose."""
    now = time.time()
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    row = {"name": device, "purpose": purpose, "holder": holder, "lease_until": now + LEASE_SECONDS}
    statement = (
        insert(Device)
        .values(row)
        .on_conflict_do_update(
            index_elements=[Device.name, Device.purpose],
            set_=row,
            where=or_(Device.holder == holder, Device.lease_until < now),
        )
        .returning(Device.holder)
    )
    return session.execute(statement).first() is not None


def release_device(session: Session, device: str, purpose: str, holder: str) -> None:
    mine = (Device.name == device, Device.purpose == purpose, Device.holder == holder)
    session.execute(update(Device).where(*mine).values(lease_until=0.0))
