"""Starts, stops and buries trainers, each in a process group of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from residency import durable

TRAINER = "residency.server.trainer"
NULL_TRAINER = "residency.server.trainer_null"
PROCESS = "trainer.json"
"""Which process trains, so that whoever takes the job over can end it first."""
LOG = "trainer.log"
"""What a trainer prints may quote a client's data, so it goes into no other log."""
SECONDS_TO_STOP = 120.0
"""A trainer that is asked to stop does so at its next step, and writes a checkpoint."""
NICENESS = 10
"""On a CPU a trainer gives way to whoever waits for an answer."""


def start_trainer(program: str, works: Sequence[Path], runs: Path, device: str) -> subprocess.Popen[bytes]:
    """`program` on the run files of these jobs. It ends when this process does, for it holds the other end of its
    input. What it prints is in the first job's folder."""
    files = [str(work / "run.yaml") for work in works]
    with (works[0] / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", program, *files, str(runs)],
            stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, env=environment(device),
        )  # fmt: skip
    child = psutil.Process(process.pid)
    if device == "cpu":
        with suppress(psutil.Error):
            child.nice(NICENESS)
    born = child.create_time()
    record = {"host": socket.gethostname(), "pid": process.pid, "born": born, "log": str(works[0] / LOG)}
    for work in works:
        durable.write_json(work / PROCESS, record)
    return process


def log_of(work: Path) -> str:
    """Where the words of a job's last trainer are."""
    return str(json.loads((work / PROCESS).read_bytes())["log"])


def environment(device: str) -> dict[str, str]:
    """A trainer sees the one device that was leased for it."""
    kind, _, number = device.partition(":")
    shown = {"CUDA_VISIBLE_DEVICES": number} if kind == "cuda" else {}
    return {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", **shown}


def stop(process: subprocess.Popen[bytes], *, seconds: float = SECONDS_TO_STOP) -> int:
    """Asks for a checkpoint, and ends what does not hear; the exit code."""
    signal_group(process.pid, signal.SIGTERM)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        signal_group(process.pid, signal.SIGKILL)
        code = process.wait()
    close(process)
    return code


def close(process: subprocess.Popen[bytes]) -> None:
    """Ends what the trainer may have left of its group."""
    if process.stdin:
        process.stdin.close()
    signal_group(process.pid, signal.SIGKILL)


def signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def bury_former(work: Path) -> None:
    """Ends the trainer of an attempt before this one, where it is still there: two must not write into one run."""
    try:
        former = json.loads((work / PROCESS).read_bytes())
        process = psutil.Process(former["pid"])
        same = former["host"] == socket.gethostname() and process.create_time() == former["born"]
    except (OSError, ValueError, KeyError, psutil.Error):
        return
    if same:
        signal_group(former["pid"], signal.SIGKILL)
        with suppress(psutil.Error):
            process.wait(10)
