"""A run that is killed, stopped or damaged ends with the weights of a run that never was."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from residency.config.model import RunConfig
from residency.engine.checkpoint import find_damage
from residency.records import RunFolder, Summary
from tests.e2e.tiny import rows, write_rows
from tests.integration.process import (
    FULL,
    STEPS,
    assert_same_result,
    checkpoints,
    configure,
    copy_of,
    error,
    finish,
    kinds,
    start,
    steps_done,
    train,
    wait_for,
)

# ---- kill -9


def kill_at_random(config: RunConfig, runs: Path, kills: int, seed: int) -> RunFolder:
    """Kills the run `kills` times: while it starts, between and within steps, and while it writes a checkpoint."""
    random = np.random.default_rng(seed)
    run = RunFolder(runs / config.name)
    for number in range(kills):
        process = start(config, runs, resume=number > 0)
        if number == 0:
            wait_for((run / "config.yaml").exists, process)
        match ("step", "step", "checkpoint", "start")[number % 4]:
            case "start":
                time.sleep(random.uniform(0, 1.0))
            case "step":
                target = min(last_saved(run) + int(random.integers(1, 8)), STEPS - 10)
                resumed = kinds_so_far(run).count("resumed")
                wait_for(lambda: kinds_so_far(run).count("resumed") > resumed or last_saved(run) == 0, process)  # noqa: B023
                wait_for(lambda: steps_done(run) >= target, process)  # noqa: B023
                time.sleep(random.uniform(0, 0.03))
            case "checkpoint":
                wait_for(lambda: any((run / "checkpoints").glob(".*.writing")), process)
                time.sleep(random.uniform(0, 0.005))
        process.kill()
        assert finish(process) == -signal.SIGKILL, f"the run ended before kill {number + 1}"
    assert train(config, runs, resume=True) == 0
    return run


def last_saved(run: RunFolder) -> int:
    return max((int(name.removeprefix("step-")) for name in checkpoints(run)), default=0)


def kinds_so_far(run: RunFolder) -> list[str]:
    return kinds(run) if (run / "events.jsonl").exists() else []


def test_twenty_kills_leave_no_trace_in_the_result(folder: Path, undisturbed: RunFolder, tmp_path: Path) -> None:
    run = kill_at_random(configure(folder), tmp_path, kills=20, seed=1)
    assert_same_result(run, undisturbed)
    resumed_at = [event.data["step"] for event in run.events() if event.kind == "resumed"]
    assert len(resumed_at) > 10
    assert len(set(resumed_at)) > 5, "the kills are spread over the run"


@pytest.mark.slow
def test_twenty_kills_leave_no_trace_in_full_fine_tuning(folder: Path, tmp_path: Path) -> None:
    config = configure(folder, FULL, learning_rate=1e-3)
    assert train(config, tmp_path / "whole") == 0
    run = kill_at_random(config, tmp_path / "killed", kills=20, seed=3)
    assert_same_result(run, RunFolder(tmp_path / "whole" / "run"))


def test_a_run_killed_before_its_first_checkpoint_begins_again(
    folder: Path, undisturbed: RunFolder, tmp_path: Path
) -> None:
    process = start(configure(folder), tmp_path)
    run = RunFolder(tmp_path / "run")
    wait_for(lambda: steps_done(run) >= 1, process)
    process.kill()
    finish(process)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    with (run / "events.jsonl").open("ab") as file:
        file.write(b'{"version":1,"time":1.0,"le')  # the kill came while this line was written
    assert train(configure(folder), tmp_path, resume=True) == 0
    assert_same_result(run, undisturbed)
    assert "restarted" in kinds(run)


# ---- damage


def truncate(path: Path) -> None:
    file = path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])


def flip_a_bit(path: Path) -> None:
    file = path / "optimizer.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


def empty(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def lose_the_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, lose_the_manifest])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    damage: Any, folder: Path, undisturbed: RunFolder, tmp_path: Path
) -> None:
    run = copy_of(undisturbed, tmp_path)
    damage(run / f"checkpoints/step-{STEPS:06d}")
    (run / "checkpoints/.step-000006.writing").mkdir()
    (run / "checkpoints/.step-000006.writing/adapter_model.safetensors").write_bytes(b"half")
    assert train(configure(folder), tmp_path, resume=True) == 0
    assert_same_result(run, undisturbed)
    said = {event.kind: event for event in run.events()}
    assert said["checkpoint_damaged"].data["checkpoint"] == f"step-{STEPS:06d}"
    assert said["resumed"].data["step"] == STEPS - 3
    assert not (run / "checkpoints/.step-000006.writing").exists()


# ---- being asked to stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(
    number: signal.Signals, folder: Path, undisturbed: RunFolder, tmp_path: Path
) -> None:
    config = configure(folder, save_every_steps=50)
    process = start(config, tmp_path)
    run = RunFolder(tmp_path / "run")
    wait_for(lambda: steps_done(run) >= 5, process)
    assert process.pid is not None
    os.kill(process.pid, number)
    assert finish(process) == 130
    done = steps_done(run)
    assert checkpoints(run) == [f"step-{done:06d}"]
    assert error(run)["code"] == "interrupted"
    assert number.name in error(run)["message"]
    assert "--resume" in error(run)["hint"]
    assert train(config, tmp_path, resume=True) == 0
    assert_same_result(run, undisturbed)


def test_a_second_signal_stops_at_once(folder: Path, tmp_path: Path) -> None:
    config = configure(folder, batch_size=24, save_every_steps=50)
    process = start(config, tmp_path)
    run = RunFolder(tmp_path / "run")
    wait_for(lambda: steps_done(run) >= 1, process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGINT)
    assert finish(process) == 130
    assert checkpoints(run) == []
    assert not any((run / "checkpoints").glob(".*")), "what was half written is removed"


# ---- losing the loss


def test_an_exploding_loss_stops_and_keeps_the_checkpoints(folder: Path, tmp_path: Path) -> None:
    assert train(configure(folder, FULL, learning_rate=1e3), tmp_path) == 6
    run = RunFolder(tmp_path / "run")
    assert error(run)["code"] in ("loss_exploded", "not_finite")
    assert "learning_rate" in error(run)["hint"]
    assert checkpoints(run) == ["step-000003"]
    assert find_damage(run / "checkpoints/step-000003") is None


def test_a_loss_that_is_no_number_stops_before_it_reaches_the_weights(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "poisoned")
    weights = tmp_path / "poisoned/model/model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, weights, metadata={"format": "pt"})
    assert train(configure(tmp_path / "poisoned", eval_every_steps=50), tmp_path) == 6
    run = RunFolder(tmp_path / "run")
    assert error(run)["code"] == "not_finite"
    assert checkpoints(run) == []


@pytest.fixture(scope="module")
def overfitted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A rate so high that the held-out loss soon rises."""
    runs = tmp_path_factory.mktemp("overfitted")
    config = configure(folder, learning_rate=0.1, patience=3, max_steps=200, eval_every_steps=2, keep_checkpoints=1)
    assert train(config, runs) == 0
    return RunFolder(runs / "run")


def test_a_rising_held_out_loss_ends_training_with_the_best_weights(overfitted: RunFolder) -> None:
    run, summary = overfitted, overfitted.read("summary.json", Summary)
    held_out = {m.step: m.loss for m in run.metrics() if m.split == "eval" and m.step > 0}
    assert summary.status == "stopped_early"
    assert summary.best_step == min(held_out, key=lambda step: held_out[step])
    assert summary.eval_loss == held_out[summary.best_step]
    assert summary.steps == summary.best_step + 3 * 2
    best = load_file(run / f"checkpoints/best-{summary.best_step:06d}/adapter_model.safetensors")
    result = load_file(run / "adapter/adapter_model.safetensors")
    assert all(bool((result[name] == tensor).all()) for name, tensor in best.items())
    assert "best_restored" in kinds(run)


def test_best_weights_that_are_damaged_are_said(overfitted: RunFolder, folder: Path, tmp_path: Path) -> None:
    run = copy_of(overfitted, tmp_path)
    [best] = (run / "checkpoints").glob("best-*")
    truncate(best)
    assert train(configure(folder), tmp_path, resume=True) == 0
    assert {e.kind: e for e in run.events()}["checkpoint_damaged"].data["checkpoint"] == best.name
    assert run.read("summary.json", Summary).status == "stopped_early"


def test_minutes_between_checkpoints_count_too(folder: Path, tmp_path: Path) -> None:
    config = configure(folder, save_every_steps=1000, save_every_minutes=1e-6, keep_checkpoints=5, max_steps=4)
    assert train(config, tmp_path) == 0
    assert len(checkpoints(RunFolder(tmp_path / "run"))) == 4


# ---- whose run it is


def test_two_processes_cannot_work_on_one_run(folder: Path, tmp_path: Path) -> None:
    first = start(configure(folder, save_every_steps=50), tmp_path)
    run = RunFolder(tmp_path / "run")
    wait_for(lambda: steps_done(run) >= 1, first)
    second = start(configure(folder), tmp_path, resume=True)
    assert finish(second) == 7
    first.kill()
    finish(first)
    assert not (run / "error.json").exists()


def test_data_that_have_changed_are_refused(folder: Path, undisturbed: RunFolder, tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", rows(30))
    shutil.copytree(folder / "model", tmp_path / "model")
    config = configure(tmp_path)
    process = start(config, tmp_path / "runs")
    run = RunFolder(tmp_path / "runs" / "run")
    wait_for(lambda: steps_done(run) >= 4, process)
    process.kill()
    finish(process)
    write_rows(tmp_path / "train.jsonl", rows(31))
    assert train(config, tmp_path / "runs", resume=True) == 7
    assert error(run)["code"] == "data_changed"
    assert "train.jsonl" in error(run)["message"]


def test_a_resumed_run_keeps_the_run_file_it_began_with(folder: Path, undisturbed: RunFolder, tmp_path: Path) -> None:
    run = copy_of(undisturbed, tmp_path)
    truncate(run / f"checkpoints/step-{STEPS:06d}")
    changed = configure(folder, learning_rate=1e-9, seed=99)
    assert train(changed, tmp_path, resume=True) == 0
    assert_same_result(run, undisturbed)
    assert {event.kind: event for event in run.events()}["kept"].data["sections"] == ["train"]
