"""Stands in for the trainer where no model is wanted: a run folder as a training of a few steps leaves it.

    python -m residency.server.trainer_null RUN_FILE [RUN_FILE ...] RUNS

For the tests of clients and of the queue (`--conformance-fixtures`): it starts in a fiftieth of a second, for it
imports little but the standard library, and what it leaves is no model.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from residency.server.supervise_watch import end_with_parent
from residency.server.trainer_files import asked_to_stop, note_end

STEPS = 4
TOKENS = 8
STARTS = "starts.txt"
"""A line for each time that this job was trained."""
ENDS = "ends.txt"
"""A line for each time that it was trained to its end."""
SECONDS = float(os.environ.get("RESIDENCY_NULL_TRAINING_SECONDS", "0"))
"""How long its training takes, for tests that kill it meanwhile."""


def main(run_files: Sequence[Path], runs: Path) -> int:
    for file in run_files:
        if not asked_to_stop(file.parent):
            train(file, runs)
            note_end(file.parent, 0)
    return 0


def train(run_file: Path, runs: Path) -> None:
    run = runs / run_file.parent.name
    (run / "adapter").mkdir(parents=True, exist_ok=True)
    note(run_file.parent / STARTS)
    write(run / "resolved.json", {"config": {"adapter": {"kind": "lora"}, "train": {
        "epochs": 1.0, "max_steps": None, "batch_size": 1, "micro_batch_tokens": 8, "learning_rate": 1e-4,
        "eval_every_steps": STEPS, "save_every_steps": STEPS}}, "reasons": {}})  # fmt: skip
    write(run / "audit.json", {"version": 1, "rows": {"train": STEPS, "eval": 0}})
    with (run / "metrics.jsonl").open("w") as metrics:
        for step in range(1, STEPS + 1):
            time.sleep(SECONDS / STEPS)
            metrics.write(json.dumps(metric(step)) + "\n")
            metrics.flush()
    write(run / "summary.json", {
        "version": 1, "status": "finished", "steps": STEPS, "epochs": 1.0, "best_step": None, "train_loss": 1.0 / STEPS,
        "eval_loss": None, "rows": {"train": STEPS}, "tokens": STEPS * TOKENS, "trained_tokens": STEPS * TOKENS,
        "tokens_per_second": 1.0, "peak_memory_bytes": 0, "seconds": {"train": 0.0}, "environment": {}})  # fmt: skip
    (run / "report.html").write_text("nothing was trained\n")
    note(run_file.parent / ENDS)


def metric(step: int) -> dict[str, Any]:
    return {"version": 1, "step": step, "epoch": step / STEPS, "split": "train", "loss": 1.0 / step, "tokens": TOKENS,
            "token_accuracy": 0.5, "learning_rate": 1e-4, "seconds": 0.0}  # fmt: skip


def note(path: Path) -> None:
    with path.open("a") as file:
        file.write("once\n")


def write(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all: a worker reads it at any moment."""
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(value))
    aside.replace(path)


if __name__ == "__main__":
    end_with_parent(0.0)
    *files, folder = map(Path, sys.argv[1:])
    sys.exit(main(files, folder))
