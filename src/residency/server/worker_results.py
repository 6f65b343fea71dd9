"""What a job leaves to its client: metrics in OpenAI's words, the result file, and checkpoints that are models."""

from __future__ import annotations

import csv
import io
import os
import shutil
from pathlib import Path
from typing import Any

from residency import durable
from residency.records import RunFolder
from residency.server.worker_follow import Plan, Step

EARLIER_KEPT = 2
"""Checkpoints kept beside the final model, which is the third."""
DECIMALS = 5
COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def step_metrics(step: Step) -> dict[str, Any]:
    """OpenAI's names. Our held-out loss is always that of the whole validation file, so both of its names have it."""
    train, held_out = step.train, step.held_out
    metrics = {
        "step": train["step"],
        "train_loss": rounded(train["loss"]),
        "train_mean_token_accuracy": rounded(train.get("token_accuracy")),
    }
    if held_out:
        loss, accuracy = rounded(held_out["loss"]), rounded(held_out.get("token_accuracy"))
        metrics |= {"valid_loss": loss, "valid_mean_token_accuracy": accuracy}
        metrics |= {"full_valid_loss": loss, "full_valid_mean_token_accuracy": accuracy}
    return {name: value for name, value in metrics.items() if value is not None}


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DECIMALS)


def step_message(metrics: dict[str, Any], total: int) -> str:
    message = f"Step {metrics['step']}/{total}: training loss={metrics['train_loss']:.2f}"
    if "valid_loss" in metrics:
        loss = metrics["valid_loss"]
        message += f", validation loss={loss:.2f}, full validation loss={loss:.2f}"
    return message


def all_metrics(run: RunFolder) -> dict[int, dict[str, Any]]:
    """By step, of a run that is over or stands still."""
    steps: dict[int, Step] = {}
    for row in durable.read_jsonl(run / "metrics.jsonl"):
        if row["split"] == "train":
            steps[row["step"]] = Step(row)
        elif row["step"] in steps:
            steps[row["step"]].held_out = row
    return {number: step_metrics(step) for number, step in sorted(steps.items())}


def result_csv(metrics: dict[int, dict[str, Any]]) -> bytes:
    """One row a step; a cell is empty where nothing was measured."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for one in metrics.values():
        names = ("step", "train_loss", "train_mean_token_accuracy", "valid_loss", "valid_mean_token_accuracy")
        rows.writerow([one.get(name, "") for name in names])
    return text.getvalue().encode()


# ---- checkpoints


def saved_steps(run: RunFolder) -> list[int]:
    """The steps of the run's checkpoints, oldest first."""
    found = (path.name.removeprefix("step-") for path in (run / "checkpoints").glob("step-*"))
    return sorted(int(number) for number in found if number.isdigit())


def epoch_folder(run: RunFolder, step: int) -> Path:
    return run / "epochs" / f"step-{step:06d}"


def keep_adapter(run: RunFolder, step: int) -> bool:
    """Keeps a checkpoint's adapter when the trainer removes the checkpoint: the same files, without the optimizer.

    False where it is gone already, or holds whole weights, which are no model without the files of the final one.
    """
    source, folder = run / "checkpoints" / f"step-{step:06d}", epoch_folder(run, step)
    aside = folder.with_name(f".{folder.name}.writing")
    if folder.exists():
        return True
    with durable.disk_errors(folder):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            for name in ADAPTER_FILES:
                os.link(source / name, aside / name)
        except FileNotFoundError:
            shutil.rmtree(aside)
            return False
        aside.rename(folder)
    return True


def add_tokenizer(run: RunFolder, step: int) -> None:
    """What the final model has beside its weights, so that a kept adapter answers in the same words."""
    for file in (run / "adapter").iterdir():
        there = epoch_folder(run, step) / file.name
        if file.is_file() and not there.exists():
            shutil.copy(file, there)


def steps_to_keep(run: RunFolder, plan: Plan, told: int) -> list[int]:
    """Checkpoints at the ends of epochs before the last step, as far as the steps have been told."""
    return [step for step in saved_steps(run) if step <= told and step < plan.steps and plan.ends_epoch(step)]
