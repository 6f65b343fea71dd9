"""What lowers forgetting on the starter model: replay (a), the learning rate (b), scaling the change (c).

    python bench/science/forgetting.py OUT.json [--device auto] [--seeds 3] [--steps 30] [--only NAME ...]

96 rows, batches of 8, linear decay; LoRA of rank 16 (alpha 32) on all linear layers, or all weights; 40 held-out rows.
Forgetting is KL(base || tuned) in nats per token on the anchors; replay takes 2 of the replay prompts a step, at weight
1. Every run of a seed starts from the same base and sees the same rows. OUT.json is written after each run, and runs
that it already has are not repeated; its `claims` are computed from the runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from task import device, render, starter, tickets

from residency.config.model import Lora
from residency.engine.adapters import peft_config
from residency.engine.divergence import Remembered
from residency.engine.engine import FULL, Engine
from residency.engine.optim import StepSettings, learning_rate_at
from residency.evals.retention import divergence_of, general_prompts, prompt_tokens, remember
from residency.evals.scale import delta_of, sweep
from residency.methods.order import rows_of_step

BATCH, REPLAYED = 8, 2
RATES = {"lora": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), "full": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)}
REPLAY = {"lora": 3e-3, "full": 3e-4}
RUNS = {
    f"{kind}-{how}-{rate:g}": (kind, how, rate)
    for kind, rates in RATES.items()
    for rate in rates
    for how in ("plain", "replay")
    if how == "plain" or rate == REPLAY[kind]
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--anchors", type=int, default=128)
    parser.add_argument("--only", nargs="*", default=list(RUNS))
    options = parser.parse_args()
    where = device(options.device)
    found = json.loads(options.out.read_text()) if options.out.exists() else {"runs": {}}
    for name in options.only:
        for seed in range(options.seeds):
            key = f"{name}-seed{seed}"
            if key in found["runs"]:
                continue
            result = run(*RUNS[name], seed, where, options.steps, options.anchors)
            found["runs"][key] = result
            found |= {"device": described(where), "claims": claims(list(found["runs"].values()))}
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(found, indent=1) + "\n")
            shown = {what: round(result[what], 4) for what in ("held_out_loss", "forgetting", "seconds")}
            print(key, json.dumps(shown), flush=True)
    print(json.dumps(found.get("claims"), indent=1))


def run(kind: str, how: str, rate: float, seed: int, where: torch.device, steps: int, anchors: int) -> dict[str, Any]:
    engine, renderer = starter(where, full=kind == "full")
    examples = tickets(136, seed)
    rows, held_out = render(renderer, examples[:96]), render(renderer, examples[96:])
    watched, replayed = ask(engine, renderer, "anchors", anchors), ask(engine, renderer, "replay", anchors)
    name, base = FULL, {}
    if kind == "lora":
        name = "tuned"
        adapter = Lora(rank=16, alpha=32.0)
        engine.add_adapter(name, peft_config(adapter, "smollm2-135m"), seed=seed)  # type: ignore[arg-type]
    else:
        engine.train_all_weights()
        base = {key: parameter.detach().clone() for key, parameter in engine.parameters(FULL).items()}
    began, losses = time.monotonic(), []
    for step in range(steps):
        batch = [rows[i] for i in rows_of_step(step, BATCH, len(rows), seed)]
        losses.append(engine.forward_backward({name: batch})[name].mean)
        if how == "replay":
            engine.pull(name, [replayed[i] for i in rows_of_step(step, REPLAYED, len(replayed), seed + 1)], 1.0)
        engine.step({name: StepSettings(learning_rate_at(step, steps, rate, "linear", 0.03))})
    seconds = time.monotonic() - began
    delta = delta_of(engine, name, base)
    assert delta is not None
    scales = sweep(delta, held_out, watched, budget=0.0, take=False)  # a budget that none holds: all are tried
    forgetting, _ = divergence_of(engine, None if name == FULL else name, watched)
    return {
        "kind": kind, "how": how, "learning_rate": rate, "seed": seed, "steps": steps, "seconds": seconds,
        "fused": bool(engine.speed.fused), "train_losses": [round(x, 4) for x in losses],
        "held_out_loss": scales.points[-1].task_loss.value, "forgetting": forgetting.value,
        "forgetting_interval": [forgetting.low, forgetting.high], "anchors": forgetting.n,
        "scales": [{"scale": p.scale, "held_out_loss": p.task_loss.value, "forgetting": p.divergence.value}
                   for p in scales.points],
    }  # fmt: skip


def ask(engine: Engine, renderer: Any, kind: str, count: int) -> list[Remembered]:
    every = general_prompts(kind)
    chosen = every[:: len(every) // count][:count]
    return remember(engine, renderer, [prompt_tokens(renderer, one.prompt) for one in chosen], seed=0)


def claims(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What the runs so far say, as means over the seeds with the least and the most."""
    found: dict[str, Any] = {}
    for kind, rates in RATES.items():
        by_rate = {rate: only(runs, kind, "plain", rate) for rate in rates}
        found[f"b {kind}: forgetting by learning rate"] = {
            f"{rate:g}": {"forgetting": spread(own, "forgetting"), "held_out_loss": spread(own, "held_out_loss")}
            for rate, own in by_rate.items() if own
        }  # fmt: skip
        means = [statistics.fmean(one["forgetting"] for one in own) for own in by_rate.values() if own]
        found[f"b {kind}: monotone"] = len(means) > 1 and means == sorted(means)
        plain, replay = by_rate[REPLAY[kind]], only(runs, kind, "replay", REPLAY[kind])
        if plain and replay:
            found[f"a {kind}: replay at {REPLAY[kind]:g}"] = {
                "forgetting_plain": spread(plain, "forgetting"), "forgetting_replay": spread(replay, "forgetting"),
                "times_less": mean(plain, "forgetting") / mean(replay, "forgetting"),
                "held_out_plain": spread(plain, "held_out_loss"), "held_out_replay": spread(replay, "held_out_loss"),
            }  # fmt: skip
    scaled = [one["scales"] for one in runs if one["how"] == "plain"]
    found["c: forgetting rises with the scale, in so many runs of"] = [
        sum(rising([point["forgetting"] for point in one]) for one in scaled), len(scaled)
    ]  # fmt: skip
    for kind in RATES:
        if own := only(runs, kind, "plain", REPLAY[kind]):
            by_scale = [{point["scale"]: point for point in one["scales"]} for one in own]
            found[f"c {kind}: at {REPLAY[kind]:g}, by scale"] = {
                f"{scale:g}": {what: statistics.fmean(one[scale][what] for one in by_scale)
                               for what in ("forgetting", "held_out_loss")}
                for scale in sorted(set.intersection(*map(set, by_scale)))
            }  # fmt: skip
    return found


def only(runs: list[dict[str, Any]], kind: str, how: str, rate: float) -> list[dict[str, Any]]:
    return [one for one in runs if (one["kind"], one["how"], one["learning_rate"]) == (kind, how, rate)]


def mean(runs: list[dict[str, Any]], what: str) -> float:
    return statistics.fmean(one[what] for one in runs)


def spread(runs: list[dict[str, Any]], what: str) -> dict[str, Any]:
    values = [one[what] for one in runs]
    return {"mean": mean(runs, what), "least": min(values), "most": max(values), "seeds": len(values)}


def rising(values: list[float]) -> bool:
    return values == sorted(values)


def described(where: torch.device) -> str:
    return torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU"


if __name__ == "__main__":
    main()
