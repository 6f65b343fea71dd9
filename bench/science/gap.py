"""When the alarm of the train/validation gap fires on 32 rows x 40 epochs (e), and what early stopping restores.

    python bench/science/gap.py OUT.json [--device auto] [--seeds 3] [--epochs 40] [--tasks docstrings tickets]

Two tasks: what a function does, from its name and arguments (`tasks.py`), which 32 rows cannot teach, so that the
held-out loss must rise; and support tickets (`task.py`), which they do teach: there the held-out loss goes down to
nothing, and a rise of 5 % is one of thousandths. Batches of 8, a measurement every epoch on 40 held-out rows; full
fine-tuning at 1e-4, LoRA of rank 16 at 1e-3, the loop of `residency train`. Each is run to the end without patience,
which shows when the held-out loss rises by 5 % above its best, and again as a run would, which stops and takes the
best weights. OUT.json is written after each pair, and pairs that it already has are not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from forgetting import described
from task import device, render, starter, tickets
from tasks import rendered

from residency.config.model import Lora, Train
from residency.config.section import Final
from residency.engine.adapters import peft_config
from residency.engine.engine import FULL
from residency.methods import sft
from residency.records import Metric, RunFolder

RATES = {"full": 1e-4, "lora": 1e-3}
ROWS, HELD_OUT, BATCH, RISE = 32, 40, 8, 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--tasks", nargs="+", choices=("docstrings", "tickets"), default=["docstrings", "tickets"])
    parser.add_argument("--kinds", nargs="+", choices=RATES, default=list(RATES))
    options = parser.parse_args()
    where = device(options.device)
    found: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {"runs": {}}
    for seed, task, kind in itertools.product(range(options.seeds), options.tasks, options.kinds):
        key = f"{task}-{kind}-seed{seed}"
        if key in found["runs"]:
            continue
        whole = train(task, kind, seed, where, options.epochs, patience=None)
        stopped = train(task, kind, seed, where, options.epochs, patience=3)
        found["runs"][key] = judged(whole) | {"stopped": stopped, "device": described(where)}
        found["claims"] = {task: claims(own) for task in ("docstrings", "tickets")
                           if (own := {k: one for k, one in found["runs"].items() if k.startswith(task)})}  # fmt: skip
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
        shown = {what: found["runs"][key][what] for what in ("watch_step", "overfit_step", "risen_step")}
        print(key, json.dumps(shown), flush=True)
    print(json.dumps(found.get("claims"), indent=1))


def train(task: str, kind: str, seed: int, where: torch.device, epochs: int, patience: int | None) -> dict[str, Any]:
    engine, renderer = starter(where, full=kind == "full")
    every = (
        render(renderer, tickets(ROWS + HELD_OUT, seed)) if task == "tickets"
        else rendered(task, seed, ROWS + HELD_OUT, renderer)
    )  # fmt: skip
    rows, held_out = every[:ROWS], every[ROWS:]
    if kind == "full":
        engine.train_all_weights()
    else:
        engine.add_adapter("tuned", peft_config(Lora(rank=16), "smollm2-135m"), seed=seed)  # type: ignore[arg-type]
    name = FULL if kind == "full" else "tuned"
    settings = Train[Final](
        epochs=epochs, batch_size=BATCH, micro_batch_tokens=engine.micro_batch_tokens, learning_rate=RATES[kind],
        eval_every_steps=ROWS // BATCH, save_every_steps=10**6, patience=patience, seed=seed, keep_checkpoints=1,
    )  # fmt: skip
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        outcome = sft.train(engine, name, rows, held_out, settings, run)
        metrics = [metric for metric in run.metrics() if metric.split == "eval" and metric.step > 0]
    scores = engine.logprobs(name, held_out)
    restored = -sum(float(one.logprobs.sum()) for one in scores) / sum(len(one.logprobs) for one in scores)
    return {
        "steps": outcome.progress.step, "best_step": outcome.progress.best_step, "stopped": outcome.stopped_early,
        "best_held_out_loss": outcome.progress.best_loss, "restored_held_out_loss": restored,
        "seconds": time.monotonic() - began, "evaluations": [curve_point(metric) for metric in metrics],
    }  # fmt: skip


def curve_point(metric: Metric) -> dict[str, Any]:
    return metric.model_dump(include={"step", "loss", "train_loss", "badge", "token_accuracy"})


def judged(found: dict[str, Any]) -> dict[str, Any]:
    """The steps of the first WATCH, the first OVERFIT, and the first held-out loss of 5 % above the best before."""
    points, best, risen = found["evaluations"], float("inf"), None
    for point in points:
        if risen is None and point["loss"] > RISE * best:
            risen = point["step"]
        best = min(best, point["loss"])
    first = {
        badge: next((one["step"] for one in points if one["badge"] == badge), None) for badge in ("WATCH", "OVERFIT")
    }
    return {"watch_step": first["WATCH"], "overfit_step": first["OVERFIT"], "risen_step": risen} | found


def claims(runs: dict[str, Any]) -> dict[str, Any]:
    def before(alarm: int | None, rise: int | None) -> bool:
        return rise is None or (alarm is not None and alarm < rise)

    alarms = {key: [step for step in (one["watch_step"], one["overfit_step"]) if step is not None]
              for key, one in runs.items()}  # fmt: skip
    return {
        "the alarm fires before a rise of 5 %, in so many runs of": [
            sum(before(min(alarms[key], default=None), one["risen_step"]) for key, one in runs.items()), len(runs)
        ],
        "OVERFIT fires before or at that rise, in so many runs with one": [
            sum(one["overfit_step"] is not None and one["overfit_step"] <= one["risen_step"] for one in runs.values()
                if one["risen_step"]),
            sum(one["risen_step"] is not None for one in runs.values()),
        ],
        "restored / best held-out loss, at most": max(
            one["stopped"]["restored_held_out_loss"] / one["stopped"]["best_held_out_loss"] for one in runs.values()
        ),
        "steps saved by stopping": {key: one["steps"] - one["stopped"]["steps"] for key, one in runs.items()},
    }  # fmt: skip


if __name__ == "__main__":
    main()
