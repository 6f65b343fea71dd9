"""Which jobs may train in one process, on one base; and claiming them.

They are supervised LoRA jobs on the same base with the same speed settings, without what an engine cannot do for
several at once, or what is a search of its own: dropout, DoRA, a chat template with new tokens, a searched rate.
A job whose trainer has died twice without a new checkpoint trains alone, so that it cannot take others with it.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from sqlalchemy import or_, select

from residency.config.model import Lora
from residency.errors import ConfigError
from residency.server.database.queue import claim
from residency.server.database.tables import Job
from residency.server.job_settings import run_config
from residency.server.worker_attempt import Desk

MOST_TOGETHER = 4
GATHER_SECONDS = 1.0
"""How long others are waited for: an idle worker takes a job within half of it, so what is left has no other taker; and
files of jobs that came in one go are checked meanwhile."""
MOST_DEATHS = 1
TRAINABLE = ("queued", "running")
"""`running` jobs that nobody holds were a dead worker's."""


def take_along(desk: Desk, job: Job) -> list[Job]:
    """Claims jobs that fit beside this one, which is held already."""
    wanted = in_common(job)
    if wanted is None or not fitting(desk, job, wanted, ("validating_files", *TRAINABLE)):
        return []
    desk.stopping.wait(GATHER_SECONDS)
    ids, taken = fitting(desk, job, wanted, TRAINABLE), list[Job]()
    while ids and len(taken) < MOST_TOGETHER - 1 and not desk.stopping.is_set():
        with desk.database.write() as session:
            found = claim(session, Job, str(job.worker), TRAINABLE, ids)
        if found is None:
            break
        taken.append(found)
    return taken


def fitting(desk: Desk, job: Job, wanted: dict[str, Any], statuses: tuple[str, ...]) -> list[str]:
    """The ids of jobs that wait in one of these statuses and fit."""
    with desk.database.read() as session:
        held_by_nobody = or_(Job.status == "validating_files", Job.lease_until < time.time())
        free = (Job.status.in_(statuses), Job.base == job.base, Job.id != job.id, held_by_nobody)
        waiting = session.scalars(select(Job).where(*free).order_by(Job.seq)).all()
    speed = begun_speed(desk, job)
    return [one.id for one in waiting if in_common(one) == wanted and begun_speed(desk, one) in (None, speed)]


def in_common(job: Job) -> dict[str, Any] | None:
    """What must be the same for jobs that train on one base; None for one that trains alone."""
    if job.parent or job.progress.get("crashes", 0) > MOST_DEATHS:
        return None
    try:
        config = run_config(job, Path("train"), None)
    except ConfigError:
        return None
    adapter = config.adapter
    if not isinstance(adapter, Lora) or adapter.kind != "lora" or adapter.dropout or adapter.dora:
        return None
    if config.model.chat_template or config.train.learning_rate == "search":
        return None
    return config.model_dump(include={"model", "method", "speed"}) | {"targets": adapter.targets}


def begun_speed(desk: Desk, job: Job) -> Any:
    """What a job that has begun resolved its speed settings to; it keeps to that."""
    try:
        return json.loads((desk.settings.runs / job.id / "resolved.json").read_bytes())["config"].get("speed")
    except (OSError, ValueError, KeyError):
        return None
