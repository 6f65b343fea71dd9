"""Bars are drawn where somebody watches, and nothing of them stays."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from residency import progress
from residency.cli.live import live_view
from residency.records import Event


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    """What is sent to a terminal."""
    sent = StringIO()
    monkeypatch.setattr(progress, "console", Console(file=sent, force_terminal=True, width=40, height=20))
    monkeypatch.setattr(progress, "enabled", True)
    return sent


def under_the_cursor(screen: StringIO) -> str:
    """What was drawn on the line where the cursor rests, and where a terminal writes the `^C` of a Ctrl-C."""
    return screen.getvalue().rpartition("\n")[2]


def test_the_cursor_rests_below_the_bars_so_that_a_ctrl_c_moves_nothing(screen: StringIO) -> None:
    with progress.track("reading", 10):
        progress.console.print("an event")
        assert "reading" in screen.getvalue()
        assert under_the_cursor(screen) == ""


def test_so_it_does_below_the_live_view_of_a_training(screen: StringIO) -> None:
    heard: list[Event] = []
    with live_view(heard.append) as hear, progress.track("training", 10):
        hear(Event(kind="run", message="", data={"path": "runs/none"}))
        progress.console.print("an event")
        assert "training" in screen.getvalue()
        assert under_the_cursor(screen) == ""
    assert [event.kind for event in heard] == ["run"]
