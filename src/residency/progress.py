"""Progress bars with an ETA, on standard error, where somebody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True)
_shown: Progress | None = None
enabled = False
"""Off for a library; the command line switches it on where standard error is a terminal."""


@contextmanager
def inside_a_view() -> Iterator[Progress]:
    """The bars of all `track`s, to be drawn by a larger live view."""
    global _shown
    _shown = _bars()
    try:
        yield _shown
    finally:
        _shown = None


class _Bars(Progress):
    """With an empty line below, where the cursor rests: a bar may fill its line, and the `^C` that a terminal writes
    beside the cursor would go on to a line that nobody clears."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield ""


def _bars() -> Progress:
    return _Bars(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console, transient=True,
    )  # fmt: skip


@contextmanager
def track(description: str, total: int) -> Iterator[Callable[..., None]]:
    """Yields `advance(n=1, note="")`; bars that are open at once stand below each other."""
    global _shown
    if not enabled:
        yield lambda n=1, note="": None
        return
    outermost = _shown is None
    bars = _shown = _shown or _bars()
    task = bars.add_task(description, total=total, note="")

    def advance(n: int = 1, note: str = "") -> None:
        bars.update(task, advance=n, note=note)

    try:
        if outermost:
            bars.start()
        yield advance
    finally:
        bars.remove_task(task)
        if outermost:
            bars.stop()
            _shown = None
