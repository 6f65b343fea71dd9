"""A run folder as training leaves it, made up but realistic."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
import yaml

from residency import durable
from residency.data.messages import Example, Origin
from residency.evals.card_behaviours import choose
from residency.evals.card_prompts import NEAR, Written, neighbours_of, probes_of
from residency.evals.card_records import Behaviour, Probe, ProbeSet
from residency.evals.card_summary import summarise
from residency.evals.run import Completion, evaluate
from residency.graders.automatic import choose_graders
from residency.records import (
    Interval,
    Memorised,
    Metric,
    PromptDivergence,
    RetentionResult,
    RunFolder,
    ScalePoint,
    ScaleResult,
    Summary,
)

Generate: TypeAlias = Callable[[list[Example]], list[Completion]]

ROOMS = ["kitchen", "bedroom", "living room", "garage", "bathroom", "office"]
COMMANDS = [
    ("Turn on the light in the {room}", {"intent": "HassTurnOn", "slots": {"domain": "light", "area": "{room}"}}),
    (
        "Dim the {room} lamp to {n} percent",
        {"intent": "HassLightSet", "slots": {"area": "{room}", "brightness": "{n}"}},
    ),
    ("What is the temperature in the {room}?", {"intent": "HassClimateGetTemperature", "slots": {"area": "{room}"}}),
    (
        "Set the {room} thermostat to {n} degrees",
        {"intent": "HassClimateSetTemperature", "slots": {"temperature": "{n}"}},
    ),
]
REASONS = {
    "train.learning_rate": "LoRA on 135 M parameters: 1e-3, from the rule for rank 16 and 1,500 rows",
    "train.batch_size": "8 rows, for a data set of 1,500",
    "train.epochs": "clamp(100 steps, 1 to 10 passes) for 1,500 rows",
    "data.max_length_tokens": "the longest row has 118 tokens",
    "speed.precision": "measured here: fp32 260 tokens/s, bf16 27 tokens/s",
    "adapter.rank": "16: enough for 1,500 rows",
}


def example(row: int, seed: int = 0) -> Example:
    random = np.random.default_rng([seed, row])
    text, answer = COMMANDS[row % len(COMMANDS)]
    room, n = str(random.choice(ROOMS)), str(random.integers(10, 90))
    question = text.format(room=room, n=n)
    reference = json.dumps(answer).replace("{room}", room).replace("{n}", n)
    return Example(
        origin=Origin("test.jsonl", row + 1),
        messages=(
            {"role": "system", "content": "Answer with the intent as JSON."},
            {"role": "user", "content": question},
            {"role": "assistant", "content": reference},
        ),
        fields={"question": question},
    )


def answering(share_right: float, seed: int, wrong: str = "Sure! I have done that for you.") -> Generate:
    """A model that is right on this share of the rows; with `near` its wrong answers have some fields right."""

    def generate(examples: list[Example]) -> list[Completion]:
        right = np.random.default_rng(seed).random(len(examples)) < share_right
        return [
            Completion(each.reference if good else miss(each), finished=True, tokens=24)
            for each, good in zip(examples, right, strict=True)
        ]

    def miss(each: Example) -> str:
        return each.reference.replace("area", "room").replace("Set", "Get") if wrong == "near" else wrong

    return generate


@pytest.fixture
def make_example() -> Callable[..., Example]:
    return example


@pytest.fixture
def make_answering() -> Callable[..., Generate]:
    return answering


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A smart-home run: 0 % and 7 % right before, about 91 % after; read only."""
    run = RunFolder(tmp_path_factory.mktemp("runs") / "smart-home")
    run.path.mkdir()
    write_configuration(run)
    write_metrics(run)
    run.say(
        "rows_dropped", "3 of 1,503 training rows are longer than 118 tokens and were dropped", level="warning", rows=3
    )
    run.say("device", "training on 2 CPU threads in fp32")
    run.say("best_restored", "the weights of step 160 are the result")
    write_evaluations(run)
    write_retention(run)
    write_card(run, [example(row) for row in range(40)], 8)
    run.write("summary.json", summary())
    return run


def write_configuration(run: RunFolder) -> None:
    config = {
        "name": "smart-home",
        "model": {"id": "smollm2-135m", "revision": None, "chat_template": None},
        "data": {"train": "train.jsonl", "eval": "valid.jsonl", "test": "test.jsonl", "max_length_tokens": 118},
        "method": {"name": "sft"},
        "adapter": {"kind": "lora", "rank": 16, "alpha": 32.0, "targets": "all-linear"},
        "train": {"epochs": 1.0, "batch_size": 8, "learning_rate": 0.001, "schedule": "linear", "seed": 0},
        "speed": {"precision": "fp32", "packing": True, "threads": 2},
    }
    (run / "config.yaml").write_text(
        yaml.safe_dump({"model": {"id": "smollm2-135m"}, "data": {"train": "train.jsonl"}})
    )
    durable.write_json(run / "resolved.json", {"config": config, "reasons": REASONS})


def about(value: float, n: int = 128) -> Interval:
    return Interval(value=value, low=0.85 * value, high=1.17 * value, n=n)


def write_retention(run: RunFolder) -> None:
    """Over the budget as it is, inside it at scale 0.75."""
    for step in range(0, 189, 20):
        value = 0.21 * (1 - math.exp(-step / 60))
        limits = {"low": 0.8 * value, "high": 1.25 * value}
        run.append("metrics.jsonl", Metric(step=step, epoch=step / 188, split="anchors", loss=value, tokens=1000,
                                           seconds=0, **limits))  # fmt: skip
    prompt = PromptDivergence(set="anchors", prompt="What is a prime number?", tokens=64, divergence=0.2)
    run.write("retention.json", RetentionResult(
        divergences={"anchors": about(0.203), "task": about(1.9, 32), "must_keep": about(0.11, 5)}, prompts=[prompt],
        perplexity_ratio=Interval(value=1.08, low=1.05, high=1.12, n=40), left_out=["Name a colour."], budget=0.15,
        memorised=Memorised(drawn_out=about(0.04, 50), before=about(0.0, 50), new=2),
        seconds={"base": 9.0, "replay_answers": 9.0, "training": 6.0, "after": 9.0},
    ))  # fmt: skip
    points = [
        ScalePoint(scale=scale, task_loss=about(0.06 + 0.8 * (1 - scale) ** 2, 32), loss_against_full=about(0.1, 32),
                   divergence=about(0.203 * scale**1.8, 16))
        for scale in (0.5, 0.75, 0.9, 1.0)
    ]  # fmt: skip
    run.write("scale.json", ScaleResult(points=points, proposed=0.75, taken=False, seconds=5.0, reason=(
        "at scale 0.75 forgetting is 0.121 instead of 0.203, and the held-out loss 0.110 instead of 0.060"
    )))  # fmt: skip


def write_card(run: RunFolder, rows: list[Example], most: int) -> None:
    """The real prompts with made-up answers: near the training rows nearly all hold, elsewhere fewer."""
    probes: list[Probe] = []
    behaviours, random = [], np.random.default_rng(0)
    for number, chosen in enumerate(choose(rows, most)):
        mine, empty = probes_of(number, chosen, Written("blue", [], [], "the untuned model cannot translate"), 2)
        for probe in [*mine, *neighbours_of(number, chosen, 2)]:
            holds = bool(random.random() < (0.96 if probe.kind in (*NEAR, "neighbours") else 0.3 + 0.05 * number))
            output = probe.answer or "A word in a sentence." if holds else "Sure! <Anything> else?"
            probes.append(probe.model_copy(update={"before": random.normal(-1.0), "margin": 1.0 if holds else -1.0,
                                                   "output": output, "right": holds, "holds": holds}))  # fmt: skip
        behaviours.append(Behaviour(row=str(chosen.example.origin), sort=chosen.sort, question=chosen.question,
                                    answer=chosen.answer, own="blue", empty=empty))  # fmt: skip
    measured = ProbeSet(behaviours=behaviours, probes=probes, rows=1500, seconds=38.2)
    run.write("eval/card.json", summarise(measured, "json_match"))


def write_metrics(run: RunFolder) -> None:
    noise = np.random.default_rng(0)
    for step in range(1, 189):
        loss = 0.06 + 2.4 * math.exp(-step / 18)
        rate = 1e-3 * min(step / 6, (188 - step) / 182)
        run.append(
            "metrics.jsonl",
            Metric(
                step=step, epoch=step / 188, split="train", loss=loss * float(noise.lognormal(0, 0.25)), tokens=240,
                learning_rate=rate, grad_norm=0.4 + 3 * loss * float(noise.lognormal(0, 0.2)),
                tokens_per_second=612.0, seconds=1.1 * step,
            ),
        )  # fmt: skip
        if step % 20 == 0:
            held_out = 0.055 + 2.2 * math.exp(-step / 20) + 0.00004 * max(0, step - 160) ** 2
            run.append(
                "metrics.jsonl",
                Metric(
                    step=step,
                    epoch=step / 188,
                    split="eval",
                    loss=held_out,
                    tokens=2400,
                    seconds=1.1 * step,
                    train_loss=0.9 * held_out,
                    badge="OK",
                ),
            )


def write_evaluations(run: RunFolder) -> None:
    for test, seed, after in (("test", 0, 0.91), ("unseen_wordings", 1, 0.72)):
        rows = [example(row, seed) for row in range(150)]
        graders, _ = choose_graders([row.reference for row in rows])
        models = {
            "base": answering(0.0, 1),
            "base-6-shot": answering(0.06, 2, "near"),
            "tuned": answering(after, 3, "near"),
        }
        for model, generate in models.items():
            run.write(f"eval/{test}.{model}.json", evaluate(test, model, rows, generate, graders))


def summary() -> Summary:
    return Summary(
        status="finished",
        steps=188,
        epochs=1.0,
        best_step=160,
        train_loss=0.071,
        eval_loss=0.0564,
        rows={"read": 1603, "trained on": 1500, "held out": 100, "dropped": 3},
        tokens=141_240,
        trained_tokens=36_911,
        tokens_per_second=612.4,
        peak_memory_bytes=1_930_000_000,
        seconds={
            "check": 1.2,
            "before": 74.0,
            "remember": 18.0,
            "plan card": 6.0,
            "train": 231.4,
            "retention": 14.0,
            "after": 61.8,
            "card": 7.0,
            "report": 0.9,
        },
        environment={"residency": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "device": "cpu, 2 threads"},
    )
