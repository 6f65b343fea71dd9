"""What the card draws and how fast it ticks while something runs."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

EVERY_SECONDS = 0.1


@contextmanager
def metered() -> Iterator[dict[str, float]]:
    """Fills the dictionary at its end: mean watts, and mean megahertz of the multiprocessors."""
    found: dict[str, float] = {}
    watts, megahertz, over = [], [], threading.Event()

    def read() -> None:
        while not over.wait(EVERY_SECONDS):
            watts.append(torch.cuda.power_draw() / 1e3)
            megahertz.append(torch.cuda.clock_rate())

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
        if watts:
            found |= {"watts": round(statistics.mean(watts)), "mhz": round(statistics.mean(megahertz))}
