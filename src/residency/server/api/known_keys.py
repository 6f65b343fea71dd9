"""Keys that were looked up a moment ago: who follows a job costs one look-up a second, not one a request."""

from __future__ import annotations

import time

from sqlalchemy import select

from residency.server.database.connect import Database
from residency.server.database.tables import Key
from residency.server.keys import digest, find_key

KNOWN_SECONDS = 1.0
"""A revoked key is refused after this long at the latest, and the first key is asked for."""
MOST_KNOWN = 10_000


class KnownKeys:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.known: dict[str, tuple[Key, float]] = {}
        """By digest: the key, and when it was asked for. What is no key is not remembered."""
        self.any = False
        """Whether there ever was a key: from then on every request needs one, though the last be revoked."""
        self.any_asked_at = -KNOWN_SECONDS

    async def find(self, secret: str) -> Key | None:
        """The key, if it is one and was not revoked KNOWN_SECONDS ago."""
        wanted, now = digest(secret), time.monotonic()
        key, asked_at = self.known.get(wanted, (None, 0.0))
        if key is not None and now - asked_at < KNOWN_SECONDS:
            return key
        key = await self.database.look(lambda session: find_key(session, secret))
        self.known.pop(wanted, None)
        if key is not None:
            if len(self.known) >= MOST_KNOWN:
                self.known.clear()
            self.known[wanted] = key, now
        return key

    async def exist(self) -> bool:
        now = time.monotonic()
        if not self.any and now - self.any_asked_at >= KNOWN_SECONDS:
            first = await self.database.look(lambda session: session.scalar(select(Key.seq).limit(1)))
            self.any, self.any_asked_at = first is not None, now
        return self.any
