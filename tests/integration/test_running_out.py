"""Memory and disk that run out change nothing but the time a run takes, or end it with a way to go on."""

from __future__ import annotations

import ctypes
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from residency.engine.checkpoint import find_damage
from residency.records import RunFolder
from tests.conftest import tiny_llama
from tests.e2e.tiny import make_model_folder, make_tokenizer, rows, write_rows
from tests.integration.process import (
    FULL,
    LORA,
    assert_same_result,
    checkpoints,
    configure,
    error,
    finish,
    kinds,
    start,
    steps_done,
    train,
    wait_for,
)

MEGABYTES = 1 << 20


class TightMemory:
    """Leaves `spare_bytes` of address space beyond what the process holds when training begins."""

    def __init__(self, spare_bytes: int) -> None:
        self.spare_bytes = spare_bytes

    def __call__(self) -> None:
        from residency.methods import sft

        return_large_blocks_at_once = (-3, 1 << 20)  # M_MMAP_THRESHOLD
        ctypes.CDLL(None).mallopt(*return_large_blocks_at_once)
        train_freely = sft.training

        def train_tightly(*arguments: Any) -> Any:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + self.spare_bytes, resource.RLIM_INFINITY))
            try:
                return (yield from train_freely(*arguments))
            finally:
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

        sft.training = train_tightly


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")


@pytest.fixture(scope="module")
def long_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight rows of some 250 tokens, of which a pass needs some 10 megabytes each."""
    path = tmp_path_factory.mktemp("long")
    make_model_folder(path / "model")
    tiny_llama(vocab_size=len(make_tokenizer()), hidden_size=256, intermediate_size=1024).save_pretrained(
        path / "model"
    )
    turns = [turn for row in rows(18) for turn in row["messages"]]  # type: ignore[attr-defined]
    write_rows(path / "train.jsonl", [{"messages": turns[2 * i :] + turns[: 2 * i]} for i in range(8)])
    return path


@linux_only
def test_when_memory_runs_out_smaller_passes_give_the_same_result(long_rows: Path, tmp_path: Path) -> None:
    config = configure(long_rows, LORA | {"dropout": 0.0}, batch_size=6, max_steps=2, micro_batch_tokens=2048)
    assert train(config, tmp_path / "free") == 0
    assert train(config, tmp_path / "tight", before=TightMemory(MEGABYTES * 40)) == 0
    free, tight = RunFolder(tmp_path / "free/run"), RunFolder(tmp_path / "tight/run")
    said = [event for event in tight.events() if event.kind == "micro_batch_halved"]
    assert said
    assert "micro_batch_halved" not in kinds(free)
    for ours, theirs in zip(tight.metrics(), free.metrics(), strict=True):
        # A divergence is a difference of nearly equal log-probabilities, which are rounded to 1e-6 of a nat.
        rounding = 1e-6 if ours.split in ("anchors", "replay") else None
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-5, abs=rounding)
        assert ours.tokens == theirs.tokens
        assert ours.grad_norm == (theirs.grad_norm and pytest.approx(theirs.grad_norm, rel=1e-4))


@linux_only
def test_one_row_that_does_not_fit_is_an_error_that_says_so(long_rows: Path, tmp_path: Path) -> None:
    wide = tiny_llama(vocab_size=len(make_tokenizer()), hidden_size=256, intermediate_size=8192)
    shutil.copytree(long_rows, tmp_path / "wide")
    wide.save_pretrained(tmp_path / "wide/model")
    config = configure(tmp_path / "wide", max_steps=3, batch_size=1)
    assert train(config, tmp_path, before=TightMemory(MEGABYTES * 5)) == 5
    record = error(RunFolder(tmp_path / "run"))
    assert record["code"] == "out_of_memory"
    assert "max_length_tokens" in record["hint"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting needs more rights than this machine gives: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_too_small_for_the_checkpoints_is_refused_before_training(folder: Path, small_disk: Path) -> None:
    assert train(configure(folder, FULL), small_disk) == 5
    run = RunFolder(small_disk / "run")
    assert error(run)["code"] == "disk_full"
    assert "checkpoints" in error(run)["message"]
    assert steps_done(run) == 0


def test_a_disk_that_fills_up_keeps_its_checkpoints(folder: Path, undisturbed: RunFolder, small_disk: Path) -> None:
    process = start(configure(folder), small_disk)
    run = RunFolder(small_disk / "run")
    wait_for(lambda: len(checkpoints(run)) >= 2, process)
    filler = small_disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    assert finish(process) == 5
    before = checkpoints(run)
    filler.unlink()
    assert all(find_damage(run / "checkpoints" / name) is None for name in before)
    assert train(configure(folder), small_disk, resume=True) == 0
    assert_same_result(run, undisturbed)


def test_a_file_size_limit_is_said(folder: Path, tmp_path: Path) -> None:
    assert train(configure(folder), tmp_path, before=small_files_only) == 5
    record = error(RunFolder(tmp_path / "run"))
    assert record["code"] == "disk_full"
    assert "ulimit" in record["message"]


def small_files_only() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
