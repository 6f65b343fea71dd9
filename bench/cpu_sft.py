"""Our tokens per second and peak memory against TRL's SFTTrainer: same rows, model, adapter, batch and precision.

    python bench/cpu_sft.py [--rounds 3] [--steps 12] [--threads 2]

Each row is measured in a fresh process, and the frameworks take turns. A token is a token of the data, prompt and
answer; padding never counts. Steps before WARM_UP are not timed. TRL runs at its defaults (but fp32, as ours), and as a
user would tune it on a CPU: no activation checkpointing, rows of like length together.
Writes bench/results/cpu_sft.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "examples" / "smart-home" / "data" / "train.jsonl"
RESULTS = ROOT / "bench" / "results" / "cpu_sft.json"
BATCH, RANK, RATE, WARM_UP = 8, 16, 1e-3, 4
Run: TypeAlias = tuple[list[float], list[float], list[int]]
"""Of each step: loss, seconds, tokens of the data."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=FRAMEWORKS, help="measure one row in this process and print it as JSON")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.steps, options.threads)))
        return
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in FRAMEWORKS}
    for number in range(options.rounds):
        for name in FRAMEWORKS:
            rows[name].append(in_fresh_process(name, options))
            print(f"round {number + 1}: {name:15} {rows[name][-1]['tokens_per_second']:7.0f} tok/s", flush=True)
    report(rows, options)


def in_fresh_process(name: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [
        sys.executable,
        __file__,
        "--only",
        name,
        "--steps",
        str(options.steps),
        "--threads",
        str(options.threads),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(name: str, steps: int, threads: int) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(threads)
    rows = training_rows(steps * BATCH)
    losses, seconds, tokens = FRAMEWORKS[name](rows, steps)
    timed = slice(WARM_UP, steps)
    return {
        "tokens_per_second": sum(tokens[timed]) / sum(seconds[timed]),
        "step_seconds": statistics.median(seconds[timed]),
        "first_step_seconds": seconds[0],
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def training_rows(count: int) -> list[Any]:
    from residency.config.model import Model
    from residency.data.render import renderer_for
    from residency.data.validate import load_examples
    from residency.models.load import load_tokenizer

    renderer = renderer_for(load_tokenizer(Model(id="smollm2-135m")))
    return renderer.render_all(load_examples(str(DATA)).examples[:count])


def starter_model() -> Any:
    import torch

    from residency.config.model import Model
    from residency.models.load import load_model

    return load_model(Model(id="smollm2-135m"), dtype=torch.float32, device=torch.device("cpu"))


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=RANK, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def ours(rows: list[Any], steps: int, **settings: Any) -> Run:
    from residency.engine.engine import Engine
    from residency.engine.optim import StepSettings

    engine = Engine(starter_model(), micro_batch_tokens=4096, **settings)
    engine.add_adapter("one", lora())
    losses, seconds, tokens = [], [], []
    for step in range(steps):
        began, batch = time.perf_counter(), rows[step * BATCH : (step + 1) * BATCH]
        losses.append(float(engine.forward_backward({"one": batch})["one"].mean))
        engine.step({"one": StepSettings(RATE)})
        seconds.append(time.perf_counter() - began)
        tokens.append(sum(len(row) for row in batch))
    return losses, seconds, tokens


def trl(rows: list[Any], steps: int, **settings: Any) -> Run:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from residency.config.model import Model
    from residency.models.load import load_tokenizer

    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.began)

    dataset = Dataset.from_list(
        [{"input_ids": row.input_ids.tolist(), "completion_mask": row.trained.astype(int).tolist()} for row in rows]
    )
    chosen = {"train_sampling_strategy": "sequential"} | settings
    arguments = SFTConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=BATCH, max_steps=steps, learning_rate=RATE,
        lr_scheduler_type="constant", logging_steps=1, report_to=[], save_strategy="no", use_cpu=True, bf16=False,
        disable_tqdm=True, completion_only_loss=True, max_length=None, **chosen,
    )  # fmt: skip
    trainer = SFTTrainer(model=starter_model(), args=arguments, train_dataset=dataset,
                         processing_class=load_tokenizer(Model(id="smollm2-135m")), peft_config=lora(),
                         callbacks=[Clock()])  # fmt: skip
    collate, tokens = trainer.data_collator, []

    def counting(batch: list[Any]) -> Any:
        tokens.append(sum(len(row["input_ids"]) for row in batch))
        return collate(batch)

    trainer.data_collator = counting
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, seconds, tokens[:steps]


FRAMEWORKS: dict[str, Callable[[list[Any], int], Run]] = {
    "ours": ours,
    "ours, no shared prefix": lambda rows, steps: ours(rows, steps, share_prefix=False),
    "trl, defaults": trl,
    "trl, tuned": lambda rows, steps: trl(rows, steps, gradient_checkpointing=False),
    "trl, tuned, length-grouped": lambda rows, steps: trl(
        rows, steps, gradient_checkpointing=False, train_sampling_strategy="group_by_length"
    ),
}


def report(rows: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    from residency.models.load import versions

    summary = {
        name: {
            "tokens_per_second": statistics.median(row["tokens_per_second"] for row in measured),
            "peak_memory_gb": max(row["peak_memory_bytes"] for row in measured) / 1e9,
            "first_loss": measured[0]["first_loss"],
            "last_loss": measured[0]["last_loss"],
        }
        for name, measured in rows.items()
    }
    for name, one in summary.items():
        one["ours_is_faster_by"] = statistics.median(
            mine["tokens_per_second"] / theirs["tokens_per_second"]
            for mine, theirs in zip(rows["ours"], rows[name], strict=True)
        )
        print(f"{name:28} {one['tokens_per_second']:6.0f} tok/s  {one['peak_memory_gb']:.2f} GB  "
              f"ours is {one['ours_is_faster_by']:.2f} times as fast  "
              f"loss {one['first_loss']:.4f} -> {one['last_loss']:.4f}")  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    conditions = {"batch": BATCH, "rank": RANK, "steps": options.steps, "warm_up": WARM_UP, "rounds": options.rounds,
                  "threads": options.threads, "precision": "fp32"} | versions()  # fmt: skip
    RESULTS.write_text(json.dumps({"conditions": conditions, "summary": summary, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
