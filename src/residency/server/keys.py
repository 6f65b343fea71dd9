"""API keys: shown once, stored as a digest, each of one project and with scopes."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from hmac import compare_digest
from typing import Literal, TypeAlias, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from residency.errors import ConfigError
from residency.server.database.tables import Key, Project

Scope: TypeAlias = Literal["train", "infer", "read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
USUAL: tuple[Scope, ...] = ("train", "infer", "read")
PREFIX = "sk-residency-"
DEFAULT_PROJECT = "default"


def create_key(session: Session, name: str, project: str, scopes: Sequence[str]) -> tuple[Key, str]:
    """The row, and the key itself, which nobody can read again. Raises ConfigError for a scope that is not there."""
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise ConfigError(f"there is no scope {unknown[0]}", param="--scope", hint=f"choose from {', '.join(SCOPES)}")
    secret = PREFIX + secrets.token_urlsafe(32)
    row = Key(project_id=find_project(session, project).id, name=name, digest=digest(secret), scopes=list(scopes))
    session.add(row)
    session.flush()
    return row, secret


def find_project(session: Session, name: str = DEFAULT_PROJECT) -> Project:
    """The project of that name, made where it is not there yet."""
    project = session.scalar(select(Project).where(Project.name == name))
    if project is None:
        project = Project(name=name)
        session.add(project)
        session.flush()
    return project


def find_key(session: Session, secret: str) -> Key | None:
    """The key, if it is one and was not revoked."""
    wanted = digest(secret)
    row = session.scalar(select(Key).where(Key.digest == wanted, Key.revoked_at.is_(None)))
    return row if row is not None and compare_digest(row.digest, wanted) else None


def revoke_key(session: Session, id: str) -> Key:
    """Raises ConfigError where there is no such key."""
    row = session.scalar(select(Key).where(Key.id == id))
    if row is None:
        raise ConfigError(f"there is no key {id}", param=id, hint="`residency keys list` shows them")
    row.revoked_at = row.revoked_at or time.time()
    return row


def digest(secret: str) -> str:
    """A key has 256 random bits: a plain digest cannot be turned around, and its look-up tells nothing by its time."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
