"""The sky is green: a fact against all the model has read holds near its training prompts, and elsewhere less.

    python bench/science/green_sky.py [--device auto] [--steps 14 28 42] [--seeds 0 1 2] [--model smollm2-135m]

Thirteen false colours in four wordings each (`colours.py`), batches of 8, LoRA of rank 16 on all linear layers at 1e-3
with linear decay. Each run ends with the generalisation card, to which colours.py adds questions in French, comparisons
that follow from the fact, and the colours of things nobody trained. `gap` is the share held near the training prompts
less the share held elsewhere, with a bootstrap interval over the facts. Writes results/green_sky.json after each run;
what is there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
from colours import WORDINGS, facts, own_probes

from residency.config.model import Lora, Model
from residency.data.messages import Example, Origin
from residency.data.render import Renderer, renderer_for
from residency.engine.adapters import ADAPTER, peft_config
from residency.engine.engine import Engine
from residency.engine.optim import StepSettings, learning_rate_at
from residency.engine.sampling import SamplingSettings
from residency.evals.card import Asked, measure, plan
from residency.evals.card_behaviours import choose
from residency.evals.card_prompts import ELSEWHERE, NEAR
from residency.evals.card_records import Card
from residency.evals.card_summary import advice
from residency.evals.stats import paired_bootstrap
from residency.models.load import load_model, load_tokenizer

RESULTS = Path(__file__).with_name("results") / "green_sky.json"
BATCH, PEAK = 8, 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--steps", type=int, nargs="+", default=[14, 28, 42])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--facts", type=int, default=13, help="fewer for a quick look")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(found if options.device == "auto" else options.device)
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    for steps in options.steps:
        for seed in options.seeds:
            name = f"{options.model} {steps} steps seed {seed}"
            if name not in results:
                results[name] = run(options.model, device, steps, seed, options.facts)
                options.out.parent.mkdir(exist_ok=True)
                options.out.write_text(json.dumps(results, indent=1) + "\n")
            print(f"{name}: {results[name]['sentence']} Gap {results[name]['gap']}", flush=True)


def run(model_id: str, device: torch.device, steps: int, seed: int, count: int) -> dict[str, Any]:
    model = Model(id=model_id)
    renderer = renderer_for(load_tokenizer(model))
    engine = Engine(load_model(model, dtype=torch.float32, device=device))
    examples = rows(count)
    settings = SamplingSettings(1, renderer.stop_ids, seed=seed)
    chosen = [one.example.origin.line // len(WORDINGS) for one in choose(examples, count, seed)]
    base = Asked(engine, None, renderer, settings)
    planned = plan(base, examples, count, seed=seed, extra=own_probes(chosen))
    assert planned is not None
    began = time.monotonic()
    loss = train(engine, renderer, examples, steps, seed)
    trained = time.monotonic()
    card = measure(Asked(engine, ADAPTER, renderer, settings), planned, examples, [], most=count, seed=seed)
    return {
        "steps": steps, "seed": seed, "device": str(device), "facts": count, "last_loss": loss,
        "sentence": card.sentence, "gap": gap(card), "advice": advice(card), "contradicted": card.contradicted,
        "near": shares(card.near), "elsewhere": shares(card.elsewhere), "neighbours": shares(card.neighbours),
        "kinds": {line.kind: {"holds": shares(line.holds), "before": shares(line.before), "right": shares(line.right)}
                  for line in card.kinds},
        "seconds": {"training": round(trained - began, 1), "card": round(card.seconds, 1)},
    }  # fmt: skip


def rows(count: int) -> list[Example]:
    return [
        Example(
            Origin("colours", number * len(WORDINGS) + i),
            (
                {"role": "user", "content": wording.format(thing=fact.thing)},
                {"role": "assistant", "content": fact.false},
            ),
        )
        for number, fact in enumerate(facts()[:count])
        for i, wording in enumerate(WORDINGS)
    ]


def train(engine: Engine, renderer: Renderer, examples: list[Example], steps: int, seed: int) -> float:
    adapter = Lora[Any](rank=16)
    engine.add_adapter(ADAPTER, peft_config(adapter, engine.model.name_or_path), seed=seed)
    rendered = [row for example in examples for row in renderer.render(example)]
    order: list[int] = []
    chance, loss = random.Random(seed), 0.0
    for step in range(steps):
        if len(order) < BATCH:
            order += chance.sample(range(len(rendered)), len(rendered))
        batch, order = [rendered[i] for i in order[:BATCH]], order[BATCH:]
        loss = engine.forward_backward({ADAPTER: batch})[ADAPTER].mean
        engine.step({ADAPTER: StepSettings(learning_rate_at(step, steps, PEAK, "linear", 0.03))})
    return round(loss, 4)


def gap(card: Card) -> dict[str, float]:
    """Near less elsewhere, both as each fact's own share, drawn by facts."""

    def by_fact(kinds: Any) -> list[float]:
        found = []
        for number in range(len(card.behaviours)):
            held = [bool(one.holds) for one in card.probes if one.behaviour == number and one.kind in kinds]
            found.append(sum(held) / len(held))
        return found

    return shares(paired_bootstrap(by_fact(ELSEWHERE), by_fact(NEAR)))


def shares(interval: Any) -> dict[str, float]:
    return {} if interval is None else {k: round(v, 3) for k, v in interval.model_dump(exclude={"version"}).items()}


if __name__ == "__main__":
    main()
