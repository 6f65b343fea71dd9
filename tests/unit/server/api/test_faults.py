"""A disk that is full and a database that is held, as a client meets them: a clear answer, and nothing half done."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import openai as sdk
import pytest
from fastapi import FastAPI
from openai import OpenAI

from residency.server.api.app import build
from residency.server.database import connect
from residency.server.settings import Settings
from tests.unit.server.serving import client, served

LARGE = b"x" * 300_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """With room for 128 KiB."""
    place = tmp_path / "files"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting needs more rights than this machine gives: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_file_for_which_there_is_no_room_is_refused_and_leaves_nothing(tmp_path: Path, small_disk: Path) -> None:
    app = build(Settings(home=tmp_path / "home", files=str(small_disk)))
    with served(app) as url, client(url) as openai:
        with pytest.raises(sdk.InternalServerError, match="the disk is full") as caught:
            openai.files.create(file=("a.bin", LARGE), purpose="user_data")
        assert caught.value.code == "disk_full"
        assert "retry-after" in caught.value.response.headers
        assert str(small_disk) not in caught.value.message
        assert list(openai.files.list()) == []
        assert list(small_disk.iterdir()) == []

        subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
        file = openai.files.create(file=("a.bin", LARGE), purpose="user_data")
        assert openai.files.content(file.id).read() == LARGE


@pytest.fixture
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    monkeypatch.setattr(connect, "BUSY_SECONDS", 0.2)
    return build(Settings(home=tmp_path))


def test_while_the_database_is_held_reads_are_answered_and_writes_are_asked_to_come_back(
    impatient: FastAPI, tmp_path: Path, rows: bytes
) -> None:
    with served(impatient) as url, client(url) as openai:
        file = openai.files.create(file=("t.jsonl", rows), purpose="fine-tune").id
        holder = sqlite3.connect(tmp_path / "server.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        try:
            for write in (lambda: new_job(openai, file), lambda: new_file(openai, rows)):
                with pytest.raises(sdk.InternalServerError, match="database is locked") as caught:
                    write()
                assert caught.value.status_code == 503
                assert caught.value.code == "database_busy"
                assert "retry-after" in caught.value.response.headers
            began = time.monotonic()
            assert openai.files.retrieve(file).bytes == len(rows)
            assert time.monotonic() - began < connect.BUSY_SECONDS * 10
        finally:
            holder.execute("ROLLBACK")
            holder.close()
        assert [one.id for one in openai.files.list()] == [file]
        assert [one.name for one in (tmp_path / "files").iterdir()] == [file], "no bytes without a row"
        assert not list(openai.fine_tuning.jobs.list())
        assert new_job(openai, file)


def new_job(openai: OpenAI, file: str) -> str:
    return openai.fine_tuning.jobs.create(model="smollm2-135m", training_file=file).id


def new_file(openai: OpenAI, rows: bytes) -> str:
    return openai.files.create(file=("t.jsonl", rows), purpose="fine-tune").id
