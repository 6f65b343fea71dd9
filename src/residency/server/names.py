"""From the model name that a client sends to a base and an adapter: tuned models, aliases, the starter model, Hub ids.

A client never names a folder: only an operator's alias does.
"""

from __future__ import annotations

import re
import time
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from residency.errors import RequestError
from residency.models.starter import STARTER_ID
from residency.server.database.tables import Model, Permission
from residency.server.ids import new_id
from residency.server.settings import Settings

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class Target(NamedTuple):
    name: str
    """As the client sent it."""
    base: str
    """The starter model, a Hub id, or the folder an alias names."""
    adapter: str | None = None
    """The adapter's folder."""


def resolve(session: Session, settings: Settings, project_id: str, name: str) -> Target:
    """Raises RequestError (404, `model_not_found`) for a name that is nothing here, or another project's."""
    if name.startswith("ft:"):
        model = session.scalar(select(Model).where(Model.id == name, *usable_by(project_id)))
        if model is None:
            raise unknown(name, "it was never made here, was deleted, or belongs to another project")
        return Target(name, model.base, model.adapter)
    return Target(name, base_model(settings, name))


def usable_by(project_id: str) -> tuple[ColumnElement[bool], ...]:
    """Conditions on `Model`: not deleted, and the project's own or shared with it."""
    shared = select(Permission.model).where(Permission.project_id == project_id)
    return Model.deleted_at.is_(None), or_(Model.project_id == project_id, Model.id.in_(shared))


def base_model(settings: Settings, name: str) -> str:
    for pattern, base in settings.aliases:
        if fnmatchcase(name, pattern):
            return base
    if name == STARTER_ID or name in hub_models(minute()):
        return name
    if not HUB_ID.fullmatch(name):
        raise unknown(name, f"start the server with --alias '{name[:60]}=Qwen/Qwen3-4B', or name {STARTER_ID}")
    if not settings.fetch_models:
        raise unknown(name, f"run `residency models fetch {name[:60]}` on the server, or start it with --fetch-models")
    return name


def base_models(settings: Settings) -> list[str]:
    """The names that a client can find in the list of models; an alias with `*` in it has no name of its own."""
    named = [pattern for pattern, _ in settings.aliases if "*" not in pattern]
    return list(dict.fromkeys([*named, STARTER_ID, *sorted(hub_models(minute()))]))


def minute() -> int:
    return int(time.time()) // 60


@lru_cache(maxsize=1)
def hub_models(minute: int) -> frozenset[str]:
    """What the Hub's cache on this machine holds; it is looked through once in a minute."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return frozenset(one.repo_id for one in scan_cache_dir().repos if one.repo_type == "model")
    except CacheNotFound:
        return frozenset()


def tuned_name(model: str, organization: str, suffix: str | None) -> str:
    """`ft:base:organization:suffix:xxxxxxxx`; further training of such a model keeps its base's name."""
    base = model.split(":")[1] if model.startswith("ft:") else model
    return f"ft:{base}:{organization}:{suffix or ''}:{new_id('', 8)}"


def checkpoint_name(model: str, organization: str, suffix: str | None, step: int) -> str:
    """A checkpoint has 8 characters of its own."""
    return f"{tuned_name(model, organization, suffix)}:ckpt-step-{step}"


def unknown(name: str, hint: str) -> RequestError:
    return RequestError(
        f"The model `{name[:100]}` does not exist or you do not have access to it",
        status=404, param="model", code="model_not_found", hint=hint,
    )  # fmt: skip
