"""What lowers forgetting on the starter model: replay (a), the learning rate (b), scaling the change (c).

    python bench/science/forgetting.py [--steps 30] [--only lora-plain-0.003 ...]

96 rows, batches of 8, linear decay, LoRA of rank 16 (alpha 32) on all linear layers or all weights; 40 held-out rows.
Forgetting is KL(base || tuned) in nats per token on 16 of the anchors; replay uses 48 of the replay prompts, 2 a step,
at weight 1. Every run starts from the same base and sees the same rows. Writes results/forgetting.json after each run.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from task import render, starter, tickets

from residency.config.model import Lora
from residency.engine.adapters import peft_config
from residency.engine.divergence import Remembered
from residency.engine.engine import FULL, Engine
from residency.engine.optim import StepSettings, learning_rate_at
from residency.evals.retention import divergence_of, general_prompts, prompt_tokens, remember
from residency.evals.scale import delta_of, sweep
from residency.methods.order import rows_of_step

RESULTS = Path(__file__).with_name("results") / "forgetting.json"
BATCH, REPLAYED = 8, 2
RUNS = [
    ("lora", "plain", 3e-3), ("lora", "replay", 3e-3), ("lora", "plain", 1e-3), ("lora", "plain", 3e-4),
    ("full", "plain", 1e-4), ("full", "plain", 3e-5), ("full", "plain", 3e-4), ("full", "replay", 3e-4),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--only", nargs="*")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for kind, how, rate in RUNS:
        name = f"{kind}-{how}-{rate:g}"
        if name in results or (options.only and name not in options.only):
            continue
        results[name] = run(kind, how, rate, options.steps)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(name, json.dumps({key: results[name][key] for key in ("held_out_loss", "forgetting")}), flush=True)


def run(kind: str, how: str, rate: float, steps: int) -> dict[str, Any]:
    engine, renderer = starter()
    examples = tickets(136)
    rows, held_out = render(renderer, examples[:96]), render(renderer, examples[96:])
    anchors, replay = ask(engine, renderer, "anchors", 16), ask(engine, renderer, "replay", 48)
    name, base = FULL, {}
    if kind == "lora":
        name = "tuned"
        adapter = Lora(rank=16, alpha=32.0)
        engine.add_adapter(name, peft_config(adapter, "smollm2-135m"), seed=0)  # type: ignore[arg-type]
    else:
        engine.train_all_weights()
        base = {key: parameter.detach().clone() for key, parameter in engine.parameters(FULL).items()}
    began, losses = time.monotonic(), []
    for step in range(steps):
        batch = [rows[i] for i in rows_of_step(step, BATCH, len(rows), 0)]
        losses.append(engine.forward_backward({name: batch})[name].mean)
        if how == "replay":
            engine.pull(name, [replay[i] for i in rows_of_step(step, REPLAYED, len(replay), 1)], 1.0)
        engine.step({name: StepSettings(learning_rate_at(step, steps, rate, "linear", 0.03))})
    seconds = time.monotonic() - began
    delta = delta_of(engine, name, base)
    assert delta is not None
    scales = sweep(delta, held_out, anchors, budget=1e-9, take=False)  # a budget that none holds: all are tried
    found, _ = divergence_of(engine, None if name == FULL else name, anchors)
    return {
        "kind": kind, "how": how, "learning_rate": rate, "steps": steps, "train_losses": [round(x, 4) for x in losses],
        "held_out_loss": scales.points[-1].task_loss.value, "forgetting": found.value,
        "forgetting_interval": [found.low, found.high], "seconds": round(seconds, 1),
        "scales": [
            {"scale": p.scale, "held_out_loss": p.task_loss.value, "forgetting": p.divergence.value}
            for p in scales.points
        ],
    }  # fmt: skip


def ask(engine: Engine, renderer: Any, kind: str, count: int) -> list[Remembered]:
    every = general_prompts(kind)
    chosen = every[:: len(every) // count][:count]
    return remember(engine, renderer, [prompt_tokens(renderer, one.prompt) for one in chosen], seed=0)


if __name__ == "__main__":
    main()
