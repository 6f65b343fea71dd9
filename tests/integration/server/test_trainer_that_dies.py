"""A trainer that dies is started again; one that always dies ends its job with a reason."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from residency.server import worker_job
from residency.server.database.tables import Job
from residency.server.worker_attempt import Desk
from residency.server.worker_child import TRAINER
from residency.server.worker_job import make_room
from tests.e2e.tiny import rows
from tests.integration.server.rig import Home, jsonl

DIES = "import os, pathlib, signal, sys\nrun = pathlib.Path(sys.argv[1]).parent\n"
KILLED = "os.kill(os.getpid(), signal.SIGKILL)\n"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path / "home", null=True)
    yield made
    made.close()


STAND_IN = "from residency.server.trainer_null import main\n"
THEN = STAND_IN + "*files, runs = map(pathlib.Path, sys.argv[1:])\nmain(files, runs)\n"


@pytest.fixture
def run_with(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Job]:
    """A job whose trainer is these lines of Python."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.setattr(worker_job, "MOST_CRASHES", 2)

    def run(lines: str, jobs: int = 1) -> Job:
        """The last of so many jobs that wait."""
        (tmp_path / "trainer_of_a_test.py").write_text(lines)
        made = [home.create("nothing", home.upload(jsonl(rows(10))), status="queued") for _ in range(jobs)]
        home.work_here(replace(home.desk(), program="trainer_of_a_test"))
        return home.job(made[-1])

    return run


def test_a_trainer_that_always_dies_fails_its_job(run_with: Callable[[str], Job], home: Home) -> None:
    job = run_with(DIES + KILLED)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error["code"] == "trainer_died"
    assert "died 3 times (the last time by signal SIGKILL) without getting past step 0" in job.error["message"]
    again = "The trainer died (signal SIGKILL); training goes on from its last checkpoint"
    assert home.messages(job.id).count(again) == 2


def test_a_trainer_that_died_once_is_forgiven(run_with: Callable[[str], Job], home: Home) -> None:
    once = "if not (run / 'died').exists():\n (run / 'died').touch()\n " + KILLED
    job = run_with(DIES + once + THEN)
    assert job.status == "succeeded"
    assert [one["step"] for one in home.metrics(job.id)] == [1, 2, 3, 4]


def test_jobs_whose_common_trainer_dies_twice_go_on_alone(run_with: Callable[..., Job], home: Home) -> None:
    """As where one of them needs more memory than there is."""
    together = "if len(sys.argv) > 3:\n " + KILLED
    job = run_with(DIES + together + THEN, jobs=3)
    assert job.status == "succeeded"
    messages = home.messages(job.id)
    assert "The trainer of several jobs died twice; this one goes on alone" in messages
    assert messages.count("The job has successfully completed") == 1


def test_an_error_without_a_record_is_not_tried_again(
    run_with: Callable[[str], Job], home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    job = run_with("raise ValueError('a bug')")
    assert job.error is not None
    assert job.error["code"] == "trainer_failed"
    words = home.settings.home / "work" / job.id / "trainer.log"
    assert "ValueError: a bug" in words.read_text()
    assert "a bug" not in job.error["message"] + caplog.text, "a trace may hold a client's data"
    assert str(words) in caplog.text


def test_on_a_gpu_inference_makes_room_for_training(home: Home) -> None:
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # the library's name
            asked.append(self.path)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        answering = threading.Thread(target=server.handle_request, daemon=True)
        answering.start()
        settings = replace(home.settings, inference=f"http://127.0.0.1:{server.server_port}")
        desk: Desk = replace(home.desk(), settings=settings, program=TRAINER)
        make_room(desk)
        make_room(replace(desk, device="cuda:0"))
        answering.join(10)
        assert not answering.is_alive(), "the connection is left open"
    assert asked == ["/unload"], "a processor's memory is shared as it is"
