"""What a request can reach, and who may ask for what."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, TypeAlias, TypeVar

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from residency.errors import RequestError
from residency.server.api.limits import Limits
from residency.server.ask import Inference
from residency.server.database.connect import Database
from residency.server.database.tables import Key, Owned
from residency.server.keys import PREFIX, SCOPES, Scope, find_key
from residency.server.settings import Settings
from residency.server.storage import Storage

BEARER = HTTPBearer(auto_error=False, description="A key made by `residency keys create`")
AZURE = APIKeyHeader(name="api-key", auto_error=False, description="The same key, as Azure's clients send it")
KEYS_ASKED_EVERY_SECONDS = 1.0
R = TypeVar("R", bound=Owned)


@dataclass(slots=True)
class Server:
    settings: Settings
    database: Database
    storage: Storage
    inference: Inference
    limits: Limits
    default_project: str
    """Whose the requests without a key are."""
    has_keys: bool = False
    """Whether there ever was a key: from then on every request needs one, though the last be revoked."""
    keys_asked_at: float = 0.0

    def needs_key(self) -> bool:
        if not self.has_keys and time.monotonic() - self.keys_asked_at > KEYS_ASKED_EVERY_SECONDS:
            with self.database.read() as session:
                self.has_keys = session.scalar(select(Key.seq).limit(1)) is not None
            self.keys_asked_at = time.monotonic()
        return self.has_keys or not self.settings.loopback

    def find_key(self, secret: str) -> Key | None:
        with self.database.read() as session:
            return find_key(session, secret)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the project everything belongs to, and the way to what it may use."""

    server: Server
    project_id: str
    scopes: frozenset[str]
    origin: str
    """Where the server is, as the caller sees it: `http://127.0.0.1:8000`."""

    def read(self) -> AbstractContextManager[Session]:
        return self.server.database.read()

    def write(self) -> AbstractContextManager[Session]:
        return self.server.database.write()

    @property
    def lenient(self) -> bool:
        """Whether a list may be asked to go on behind an id that was never made, as the client's tests do."""
        return self.server.settings.conformance_fixtures

    def find(self, session: Session, table: type[R], id: str, message: str, *, param: str = "id",
             code: str | None = None) -> R:  # fmt: skip
        """The project's own row; one of another project is as unknown as one that was never made."""
        row = session.scalar(select(table).where(table.id == id, table.project_id == self.project_id))
        if row is None:
            raise RequestError(f"{message}: {id[:100]}", status=404, param=param, code=code)
        return row


def allow(scope: Scope) -> Callable[..., Awaitable[Caller]]:
    """A dependency that admits those who hold `scope` (or `admin`), and counts their requests."""

    async def admit(
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
        api_key: Annotated[str | None, Depends(AZURE)],
    ) -> Caller:
        server: Server = request.app.state.server
        caller = await identify(server, bearer.credentials if bearer else api_key, str(request.base_url).rstrip("/"))
        if not caller.scopes & {scope, "admin"}:
            raise RequestError(f"this key lacks the scope `{scope}`", status=403, code="missing_scope",
                               hint=f"make one with `residency keys create --scope {scope}`")  # fmt: skip
        return caller

    return admit


async def identify(server: Server, secret: str | None, origin: str) -> Caller:
    ours = secret is not None and secret.startswith(PREFIX)
    if not ours and not await run_in_threadpool(server.needs_key):
        server.limits.count(server.default_project)
        return Caller(server, server.default_project, frozenset(SCOPES), origin)
    key = await run_in_threadpool(server.find_key, secret) if secret else None
    if key is None:
        message = f"Incorrect API key provided: {shown(secret)}" if secret else "You didn't provide an API key"
        raise RequestError(message, status=401, code="invalid_api_key", hint="`residency keys create` makes one")
    server.limits.count(key.id)
    return Caller(server, key.project_id, frozenset(key.scopes), origin)


def shown(secret: str) -> str:
    """Enough to tell keys apart, and no more."""
    return f"{secret[:4]}****" if len(secret) < 20 else f"{secret[:13]}****{secret[-2:]}"


Reader: TypeAlias = Annotated[Caller, Depends(allow("read"))]
Trainer: TypeAlias = Annotated[Caller, Depends(allow("train"))]
Inferrer: TypeAlias = Annotated[Caller, Depends(allow("infer"))]
Admin: TypeAlias = Annotated[Caller, Depends(allow("admin"))]
