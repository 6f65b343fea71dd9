"""A training run in a process of its own, forked from one that has imported torch already."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from residency import pipeline
from residency.config.model import RunConfig
from residency.errors import ResidencyError
from residency.records import RunFolder

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["residency.pipeline", "transformers.models.llama.modeling_llama", "peft", "matplotlib.pyplot"]
)
DEADLINE_SECONDS = 120


def start(config: RunConfig, runs: Path, *, resume: bool = False, before: Callable[[], Any] = int) -> BaseProcess:
    """`before` runs first in the new process."""
    process = CONTEXT.Process(target=_train, args=(config.model_dump(), runs, resume, before))
    process.start()
    return process


def _train(settings: dict[str, Any], runs: Path, resume: bool, before: Callable[[], Any]) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    torch.set_num_threads(1)
    before()
    try:
        pipeline.run(RunConfig.model_validate(settings), runs, resume=resume)
    except ResidencyError as error:
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(signal.SIGINT + 128)


def finish(process: BaseProcess) -> int:
    """Its exit code; negative where a signal ended it."""
    process.join(DEADLINE_SECONDS)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("the training process does not end")
    return process.exitcode


def train(config: RunConfig, runs: Path, *, resume: bool = False, before: Callable[[], Any] = int) -> int:
    return finish(start(config, runs, resume=resume, before=before))


def wait_for(condition: Callable[[], bool], process: BaseProcess) -> None:
    """Until it is true or the process has ended."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while process.is_alive() and not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def steps_done(run: RunFolder) -> int:
    try:
        return max((metric.step for metric in run.metrics()), default=0)
    except FileNotFoundError:
        return 0
