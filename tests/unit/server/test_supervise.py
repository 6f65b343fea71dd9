"""Children that end start again, later each time; a server that stops waits for them and leaves none behind."""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from residency.cli.serve import bind, is_loopback, read_alias
from residency.errors import ConfigError, ResourceError, RunError
from residency.server import supervise as supervisor
from residency.server.settings import Settings
from residency.server.supervise import Child, only_server, supervise
from residency.server.supervise_settings import read_settings, write_settings


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Child]:
    """A child that runs these lines of Python, as `python -m`."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))

    def make(lines: str) -> Child:
        (tmp_path / "child_of_a_test.py").write_text(lines)
        return Child("child", ("child_of_a_test", str(tmp_path)))

    return make


def watch(children: list[Child], until: Callable[[], bool]) -> None:
    """Supervises until something is so."""
    stopping = threading.Event()
    waiting = threading.Thread(target=lambda: (wait(lambda: until() or stopping.is_set()), stopping.set()))
    waiting.start()
    try:
        supervise(children, stopping)
    finally:
        stopping.set()
        waiting.join()


def wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not until() and time.monotonic() < deadline:
        time.sleep(0.02)


NOTE_AND = "import pathlib, sys, time\nopen(pathlib.Path(sys.argv[1]) / 'starts', 'a').write('x')\n"


def starts(folder: Path) -> int:
    path = folder / "starts"
    return len(path.read_text()) if path.exists() else 0


def test_a_child_that_ends_starts_again_and_waits_longer_each_time(
    child: Callable[[str], Child], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_BACKOFF_SECONDS", 0.01)
    watch([child(NOTE_AND + "print('a word'); sys.exit(7)")], lambda: starts(tmp_path) >= 4)
    said = capfd.readouterr().err
    assert "child     a word" in said
    for wait_said in ("now", "in 0.01 s", "in 0.02 s"):
        assert f"child ended (exit code 7); it starts again {wait_said}" in said


def test_settings_that_a_child_cannot_run_with_end_the_server(child: Callable[[str], Child]) -> None:
    with pytest.raises(ConfigError, match="the child process cannot run"):
        watch([child("import sys; sys.exit(2)")], lambda: False)


def test_a_stop_waits_for_what_a_child_still_does(child: Callable[[str], Child], tmp_path: Path) -> None:
    finishing = (
        "import signal\ndef end(*_):\n time.sleep(0.3)\n open(pathlib.Path(sys.argv[1]) / 'done', 'w')\n sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\nopen(pathlib.Path(sys.argv[1]) / 'ready', 'w')\ntime.sleep(60)"
    )
    one = child(NOTE_AND + finishing)
    watch([one], (tmp_path / "ready").exists)
    assert (tmp_path / "done").exists()
    assert one.process is None
    assert not [left for left in psutil.Process().children() if "child_of_a_test" in left.cmdline()]


def test_two_servers_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        only_server(tmp_path / "home"),
        pytest.raises(RunError, match="another server runs"),
        only_server(tmp_path / "home"),
    ):
        pass
    with only_server(tmp_path / "home"):
        pass


def test_settings_reach_the_children_and_nobody_else(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database="postgresql://me:secret@db/x", aliases=(("gpt-*", "a/b"),))
    path = write_settings(settings)
    assert read_settings(tmp_path) == settings
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.168.1.2", False), ("example.org", False)],
)  # fmt: skip
def test_only_this_machines_own_addresses_need_no_keys(host: str, own: bool) -> None:
    assert is_loopback(host) == own


@pytest.mark.parametrize("text", ["", "=", "gpt", "gpt=", "=model"])
def test_an_alias_has_two_sides(text: str) -> None:
    with pytest.raises(ConfigError):
        read_alias(text)
    assert read_alias("gpt-4o-mini*=Qwen/Qwen3-4B") == ("gpt-4o-mini*", "Qwen/Qwen3-4B")


def test_a_port_that_is_taken_and_an_address_of_others_are_told_apart() -> None:
    with bind("127.0.0.1", 0) as first, pytest.raises(ResourceError, match="is taken"):
        bind("127.0.0.1", first.getsockname()[1])
    with pytest.raises(ConfigError, match="no address of this machine"):
        bind("nowhere.invalid", 0)
