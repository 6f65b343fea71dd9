"""Back-pressure: how many requests a minute one key may send, and how many answers are generated at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from residency.errors import RequestError
from residency.wording import counted


class Limits:
    def __init__(self, requests_per_minute: int | None, requests_at_once: int) -> None:
        self.requests_per_minute = requests_per_minute
        self.requests_at_once = requests_at_once
        self.left: dict[str, tuple[float, float]] = {}
        """By caller: how many requests are left, as of when."""
        self.running = 0
        self.lock = threading.Lock()

    def count(self, caller: str) -> None:
        """Raises RequestError (429) when the caller's minute is used up; it fills again steadily."""
        if self.requests_per_minute is None:
            return
        now, most = time.monotonic(), float(self.requests_per_minute)
        with self.lock:
            left, then = self.left.get(caller, (most, now))
            left = min(most, left + (now - then) * most / 60)
            self.left[caller] = (max(0.0, left - 1), now)
        if left < 1:
            raise RequestError(f"more than {counted(self.requests_per_minute, 'request')} a minute",
                               status=429, code="rate_limit_exceeded")  # fmt: skip

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Raises RequestError (429) while as many answers are being generated as may be."""
        with self.lock:
            if self.running >= self.requests_at_once:
                raise RequestError("too many answers are being generated", status=429, code="overloaded")
            self.running += 1
        try:
            yield
        finally:
            with self.lock:
                self.running -= 1
