"""What a request can reach, and who may ask for what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Annotated, TypeAlias, TypeVar

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Select, bindparam, select
from sqlalchemy.orm import Session

from residency.errors import RequestError
from residency.server.api.known_keys import KnownKeys
from residency.server.api.limits import Limits
from residency.server.ask import Inference
from residency.server.database.connect import Database
from residency.server.database.tables import Owned
from residency.server.keys import PREFIX, SCOPES, Scope
from residency.server.settings import Settings
from residency.server.storage import Storage

BEARER = HTTPBearer(auto_error=False, description="A key made by `residency keys create`")
AZURE = APIKeyHeader(name="api-key", auto_error=False, description="The same key, as Azure's clients send it")
R = TypeVar("R", bound=Owned)
T = TypeVar("T")


@dataclass(slots=True)
class Server:
    settings: Settings
    database: Database
    storage: Storage
    inference: Inference
    limits: Limits
    keys: KnownKeys
    default_project: str
    """Whose the requests without a key are."""

    async def needs_key(self) -> bool:
        return not self.settings.loopback or await self.keys.exist()


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

    async def look(self, work: Callable[[Session], T]) -> T:
        """A short read, for answers that are asked for again and again: see `Database.look`."""
        return await self.server.database.look(work)

    def write(self) -> AbstractContextManager[Session]:
        return self.server.database.write()

    @property
    def lenient(self) -> bool:
        """Whether a list may be asked to go on behind an id that was never made, as the client's tests do."""
        return self.server.settings.conformance_fixtures

    def find(self, session: Session, table: type[R], id: str, message: str, *, param: str = "id",
             code: str | None = None) -> R:  # fmt: skip
        """The project's own row; one of another project is as unknown as one that was never made."""
        row: R | None = session.scalar(own_row(table), {"id": id, "project": self.project_id})
        if row is None:
            raise RequestError(f"{message}: {id[:100]}", status=404, param=param, code=code)
        return row


@cache
def own_row(table: type[R]) -> Select[R]:
    """Made once: putting a statement together takes as long as carrying it out."""
    return select(table).where(table.id == bindparam("id"), table.project_id == bindparam("project"))


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
    if not ours and not await server.needs_key():
        server.limits.count(server.default_project)
        return Caller(server, server.default_project, frozenset(SCOPES), origin)
    key = await server.keys.find(secret) if secret else None
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
