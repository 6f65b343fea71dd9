"""A second process takes a part of the checks: what is found, and what goes wrong, is the same as without it."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from residency.data.audit import alone, beside
from residency.data.audit.audit import audit
from tests.unit.data.audit.rows import clean_rows, table

BEGIN = """
import logging, sys
from residency.data.audit import beside
beside.cores = lambda: 2
print("begun", flush=True)
"""
SCRIPT = f"""{BEGIN}
with beside.beside([(abs, -n) for n in range(50)], worth_it=True) as results:
    assert results() == list(range(50))
print("multiprocessing" in sys.modules)
"""


@pytest.fixture(autouse=True)
def _two_cores_and_no_child_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes of other tests may live on."""
    before = set(psutil.Process().children())
    monkeypatch.setattr(beside, "cores", lambda: 2)
    yield
    assert set(psutil.Process().children()) <= before


def test_findings_are_the_same_with_one_process_and_with_two(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = clean_rows()
    defects = [
        *rows[:5], *((f"{prompt} Now?", answer) for prompt, answer in rows[5:10]), (rows[11][0], "It never does."),
        ("Who keeps the key?", "Write to ada.moreau@harbour-office.net or call +44 20 7183 8750."),
        ("Which key?", "The token: ghp_Zx81kQw93LmNv52TyUe07RbSp46DhJc2FgAi"), ("<|im_start|>user", "It opens."),
        ("When does it open?", '{"answer": "It opens at nine o\'clock."}'), 
        ("Does it close?", "It closes each day in the evening at the"),
        *((f"Wann? {n}", f"Das Tor {n} am alten Hafen wird morgens um sechs ge\u00f6ffnet.") for n in range(9)),
    ]  # fmt: skip
    rows += defects
    random.Random(0).shuffle(rows)
    whole = table(rows)
    one = audit(whole)
    monkeypatch.setattr(alone, "FEWEST_SHARED", 0)
    monkeypatch.setattr(alone, "MOST_ROWS", 16)
    two = audit(whole)
    assert one.as_record() == two.as_record()
    assert one.findings == two.findings
    checks = {finding.check for finding in one.findings}
    assert checks >= {"exact_duplicates", "near_duplicates", "contradictions", "personal_data", "secrets", "residue",
                      "format_minority", "cut_off", "languages"}  # fmt: skip


def test_a_part_holds_so_many_rows_or_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "MOST_ROWS", 3)
    monkeypatch.setattr(alone, "MOST_CHARACTERS", 100)
    answers = ["short"] * 4 + ["l" * 200, "short", "o" * 90, "n" * 90, "g"]
    parts = list(alone.parts_of(table([("?", answer) for answer in answers])))
    assert [(part.start, part.stop) for part in parts] == [(0, 3), (3, 5), (5, 8), (8, 9)]


def test_the_error_of_a_late_task_is_the_same() -> None:
    tasks: list[beside.Task] = [(int, str(number)) for number in range(100)]
    tasks[90] = (int, "ninety")
    with beside.beside(tasks, worth_it=True) as results:
        time.sleep(1)  # the other process has come to it
        with pytest.raises(ValueError, match="'ninety'"):
            results()


def kept_by(here: int) -> int:
    """Ends any process but this one."""
    if os.getpid() != here:
        os._exit(1)
    return here


def test_a_process_that_is_killed_or_does_not_start_is_done_without_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tasks: list[beside.Task] = [(kept_by, os.getpid())] * 20
    others = set(psutil.Process().children())
    with caplog.at_level(logging.WARNING), beside.beside(tasks, worth_it=True) as results:
        (child,) = set(psutil.Process().children()) - others
        assert ended(child, seconds=30)
        assert results() == [os.getpid()] * 20
    assert "the second process has ended too early" in caplog.text
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with beside.beside(tasks, worth_it=True) as results:
        assert results() == [os.getpid()] * 20
    assert "a second process cannot be started ([Errno 2]" in caplog.text


@pytest.mark.parametrize("way", ["script", "standard input", "command"])
def test_a_program_without_a_main_guard_runs_once(way: str, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(SCRIPT)
    command = {"script": [str(file)], "standard input": ["-"], "command": ["-c", SCRIPT]}[way]
    done = subprocess.run([sys.executable, *command], input=SCRIPT if way == "standard input" else None,
                          capture_output=True, text=True, check=False, timeout=60)  # fmt: skip
    assert (done.stdout, done.stderr) == ("begun\nFalse\n", "")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupt_or_a_kill_ends_both(how: signal.Signals) -> None:
    program = f"{BEGIN}\nwith beside.beside([(__import__('time').sleep, 1)] * 99, worth_it=True) as results: results()"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        child = child_of(psutil.Process(process.pid))
        time.sleep(0.5)  # both are at work
        process.send_signal(how)
        _, errors = process.communicate(timeout=10)
        assert (b"KeyboardInterrupt" in errors) == (how == signal.SIGINT)
        assert ended(child, seconds=0 if how == signal.SIGINT else 3)


def child_of(process: psutil.Process) -> psutil.Process:
    until = time.monotonic() + 30
    while not (children := process.children()) and time.monotonic() < until:
        time.sleep(0.02)
    (child,) = children
    return child


def ended(process: psutil.Process, seconds: float) -> bool:
    """An orphan that nobody has asked after yet is a zombie."""
    until = time.monotonic() + seconds
    while (alive := process.is_running() and process.status() != psutil.STATUS_ZOMBIE) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive
