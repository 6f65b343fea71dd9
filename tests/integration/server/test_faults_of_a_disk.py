"""A disk that is full and a database that is held: said clearly, nothing half done, and over when they are."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from residency.server import worker_attempt, worker_child
from residency.server.database import connect
from tests.e2e.tiny import rows
from tests.integration.server.rig import Home, jsonl


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path / "home", null=True)
    yield made
    made.close()


@pytest.fixture
def full_disk(home: Home) -> Iterator[Path]:
    """The place where jobs keep their copies of the data, with room for almost nothing."""
    place = home.settings.home / "work"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting needs more rights than this machine gives: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_fails_the_job_with_a_reason_and_the_next_one_works(home: Home, full_disk: Path) -> None:
    file = home.upload(jsonl(rows(1000)))
    job = home.create("nothing", file)
    home.work_here()
    error = home.job(job).error
    assert home.job(job).status == "failed"
    assert error is not None
    assert error["code"] == "disk_full"
    assert "the disk is full" in error["message"]
    assert str(home.settings.home) not in error["message"]
    assert not list(full_disk.rglob("*.jsonl"))

    subprocess.run(["mount", "-o", "remount,size=10m", str(full_disk)], check=True)
    after = home.create("nothing", file)
    home.work_here()
    assert home.job(after).status == "succeeded"


def test_a_held_database_delays_a_job_and_loses_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another program holds the database from the middle of the job on, until the worker has been refused."""
    refused = "cannot be written down, and is tried again: the database refused: database is locked"
    monkeypatch.setattr(connect, "BUSY_SECONDS", 0.2)
    monkeypatch.setattr(worker_attempt, "RETRY_SECONDS", 0.1)
    impatient = Home(home.settings.home, null=True)
    job = impatient.create("nothing", impatient.upload(jsonl(rows(10))))
    holder = sqlite3.connect(home.settings.home / "server.db", isolation_level=None, check_same_thread=False)

    def release() -> None:
        home.wait_until(lambda: refused in caplog.text, patience=60)
        holder.execute("COMMIT")

    releasing, start = threading.Thread(target=release), worker_child.start_trainer

    def start_and_hold(*words: Any) -> subprocess.Popen[bytes]:
        process = start(*words)
        holder.execute("BEGIN IMMEDIATE")
        releasing.start()
        return process

    monkeypatch.setattr(worker_child, "start_trainer", start_and_hold)
    impatient.work_here()
    releasing.join()
    holder.close()
    impatient.close()
    assert home.job(job).status == "succeeded"
    assert [one["step"] for one in home.metrics(job)] == [1, 2, 3, 4]
    assert home.messages(job).count("The job has successfully completed") == 1
    assert refused in caplog.text
