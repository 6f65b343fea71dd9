"""Ctrl-C and SIGTERM ask a loop to stop at its next step; a second one stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_received: list[str] = []
_before: dict[signal.Signals, Any] = {}
_open = 0
"""Loops that listen at this moment."""


@contextmanager
def stop_requests() -> Iterator[Callable[[], str | None]]:
    """Yields a function that tells which signal has asked to stop, if any. Loops that are open at once hear the same
    one, and may end in any order. Outside the main thread none can hear.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    listen()
    try:
        yield lambda: _received[0] if _received else None
    finally:
        stop_listening()


def listen() -> None:
    global _open
    _open += 1
    if _open == 1:
        _before.update({number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)})


def note(number: int, frame: FrameType | None) -> None:
    if _received:
        raise KeyboardInterrupt
    _received.append(signal.Signals(number).name)


def stop_listening() -> None:
    global _open
    _open -= 1
    if _open == 0:
        for number, handler in _before.items():
            signal.signal(number, handler)
        _received.clear()
