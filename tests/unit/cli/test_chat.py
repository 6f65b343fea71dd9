"""Questions, as a person at a terminal asks them."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

PROGRAM = "from residency.cli.chat import questions; print(list(questions()))"


def talk(*lines: bytes) -> str:
    """What the terminal shows; each line is typed at a prompt of its own."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=theirs, stdout=theirs, stderr=theirs,
                             env=os.environ | {"TERM": "dumb"})  # fmt: skip
    os.close(theirs)
    shown, left = b"", list(lines)
    try:
        while piece := os.read(ours, 4096):
            shown += piece
            if left and shown.endswith(b"> "):
                os.write(ours, left.pop(0))
    except OSError:  # the child has closed its side
        pass
    child.wait(10)
    os.close(ours)
    return shown.decode()


def test_a_terminal_says_how_to_end_and_to_forget() -> None:
    shown = talk(b"hello\n", b"\n", b"  again \n", b"\x04")
    assert "/reset forgets the conversation, /quit or Ctrl-D ends it" in shown
    assert "['hello', 'again']" in shown
