"""The small task of the science scripts: a support ticket in, `CODE|severity|OBJECT` out. Made up, not guessable."""

from __future__ import annotations

import random

import torch

from residency.config.model import Model
from residency.data.messages import Example, Origin, Rendered
from residency.data.render import Renderer, renderer_for
from residency.engine.engine import Engine
from residency.models.load import load_model, load_tokenizer

STARTER = Model(id="smollm2-135m")
CODES = {
    "does not start": "QX",
    "is too slow": "LV",
    "shows an error": "ER",
    "lost my data": "DK",
    "costs too much": "PB",
}
SEVERITIES = {"It can wait.": 1, "Please hurry.": 2, "Nobody can work!": 3}
OBJECTS = ["printer", "laptop", "router", "invoice", "website", "phone", "scanner", "monitor", "server", "badge"]


def tickets(count: int, seed: int = 0) -> list[Example]:
    """Different tickets; the first `count` of all there are, in an order that the seed fixes."""
    every = [(o, c, s) for o in OBJECTS for c in CODES for s in SEVERITIES]
    chosen = random.Random(seed).sample(every, count)
    return [
        Example(Origin("tickets", row), (
            {"role": "user", "content": f"Ticket: The {item} {complaint}. {urgency}"},
            {"role": "assistant", "content": f"{CODES[complaint]}|{SEVERITIES[urgency]}|{item.upper()}"},
        ))
        for row, (item, complaint, urgency) in enumerate(chosen)
    ]  # fmt: skip


def device(wanted: str) -> torch.device:
    """`auto` takes a GPU where there is one."""
    return torch.device(
        "cuda" if wanted == "auto" and torch.cuda.is_available() else "cpu" if wanted == "auto" else wanted
    )


def starter(where: torch.device, *, full: bool = False) -> tuple[Engine, Renderer]:
    """The starter model, fresh, in the precision that a run would take: fp32 on a CPU; on a GPU bf16, under full
    fine-tuning over weights in fp32."""
    torch.set_num_threads(1)
    gpu = where.type == "cuda"
    model = load_model(STARTER, dtype=torch.bfloat16 if gpu and not full else torch.float32, device=where)
    autocast = torch.bfloat16 if gpu and full else None
    return Engine(model, micro_batch_tokens=16384 if gpu else 1024, autocast=autocast), renderer_for(
        load_tokenizer(STARTER)
    )


def render(renderer: Renderer, examples: list[Example]) -> list[Rendered]:
    return [row for example in examples for row in renderer.render(example)]
