"""Stands in for the trainer where no model is wanted: a run folder as a training of a few steps leaves it.

    python -m residency.server.trainer_null RUN_FILE RUNS

For the tests of clients and of the queue (`--conformance-fixtures`): it starts in a fiftieth of a second, for it
imports nothing but the standard library, and what it leaves is no model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

STEPS = 4
TOKENS = 8
STARTS = "starts.txt"
"""A line for each time that this job was trained."""


def main(run_file: Path, runs: Path) -> int:
    run = runs / run_file.parent.name
    (run / "adapter").mkdir(parents=True, exist_ok=True)
    with (run_file.parent / STARTS).open("a") as starts:
        starts.write("started\n")
    write(run / "resolved.json", {"config": {"adapter": {"kind": "lora"}, "train": {
        "epochs": 1.0, "max_steps": None, "batch_size": 1, "micro_batch_tokens": 8, "learning_rate": 1e-4,
        "eval_every_steps": STEPS, "save_every_steps": STEPS}}, "reasons": {}})  # fmt: skip
    write(run / "audit.json", {"version": 1, "rows": {"train": STEPS, "eval": 0}})
    with (run / "metrics.jsonl").open("a") as metrics:
        for step in range(1, STEPS + 1):
            metrics.write(json.dumps(metric(step)) + "\n")
    write(run / "summary.json", {
        "version": 1, "status": "finished", "steps": STEPS, "epochs": 1.0, "best_step": None, "train_loss": 1.0 / STEPS,
        "eval_loss": None, "rows": {"train": STEPS}, "tokens": STEPS * TOKENS, "trained_tokens": STEPS * TOKENS,
        "tokens_per_second": 1.0, "peak_memory_bytes": 0, "seconds": {"train": 0.0}, "environment": {}})  # fmt: skip
    (run / "report.html").write_text("nothing was trained\n")
    return 0


def metric(step: int) -> dict[str, Any]:
    return {"version": 1, "step": step, "epoch": step / STEPS, "split": "train", "loss": 1.0 / step, "tokens": TOKENS,
            "token_accuracy": 0.5, "learning_rate": 1e-4, "seconds": 0.0}  # fmt: skip


def write(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all: a worker reads it at any moment."""
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(value))
    aside.replace(path)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
