"""The small task of the science scripts: a support ticket in, `CODE|severity|OBJECT` out. Made up, not guessable."""

from __future__ import annotations

import random

import torch

from residency.config.model import Model
from residency.data.messages import Example, Origin, Rendered
from residency.data.render import Renderer, renderer_for
from residency.engine.engine import Engine
from residency.models.load import load_model, load_tokenizer

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


def starter(threads: int = 1) -> tuple[Engine, Renderer]:
    """The starter model in fp32, fresh."""
    torch.set_num_threads(threads)
    model = Model(id="smollm2-135m")
    engine = Engine(load_model(model, dtype=torch.float32, device=torch.device("cpu")), micro_batch_tokens=1024)
    return engine, renderer_for(load_tokenizer(model))


def render(renderer: Renderer, examples: list[Example]) -> list[Rendered]:
    return [row for example in examples for row in renderer.render(example)]
