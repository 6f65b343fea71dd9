"""The time of a step is told from real steps of shallow models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig

from residency.config.load import parse_run
from residency.config.resolve import resolve
from residency.stages import trial
from residency.stages.trial import DEPTHS, measure, step_time
from tests.conftest import random_rows
from tests.unit.stages.test_model import FACTS

SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 12, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 300,
}  # fmt: skip


CPU, GPU = torch.device("cpu"), torch.device("cuda")


@dataclass(frozen=True)
class Shallow:
    depth: int
    device: torch.device = CPU


def test_what_two_depths_take_gives_what_all_layers_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of 2 ms, and 3 ms for each layer."""
    monkeypatch.setattr(trial, "_step_seconds", lambda layers, name, batch: 0.002 + 0.003 * layers.depth)
    for depth in (1, *DEPTHS, 32):
        said = step_time(lambda layers: (Shallow(layers), "one"), depth, [])  # type: ignore[arg-type,return-value]
        assert said.seconds == pytest.approx(0.002 + 0.003 * depth)
        assert said.low == pytest.approx(said.high)


def test_the_time_told_is_the_one_to_expect_on_a_host_that_swings_and_not_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every layer takes one to three times as long, as the host's other work comes and goes."""
    random = np.random.default_rng(0)
    swings = iter(np.repeat(1 + 2 * random.random(2000), 2))  # as long as two steps in a row
    monkeypatch.setattr(trial, "_step_seconds", lambda layers, name, batch: 0.001 * layers.depth * next(swings))
    said = step_time(lambda layers: (Shallow(layers), "one"), 32, [])  # type: ignore[arg-type,return-value]
    assert said.seconds == pytest.approx(0.064, rel=0.15)
    assert 0.035 < said.low < said.seconds < said.high < 0.093


@pytest.mark.parametrize("shorter", [True, False])
def test_a_step_that_half_of_the_rows_do_not_shorten_waits_for_the_host(
    shorter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_step_seconds", lambda layers, name, batch: len(batch) / 8 if shorter else 1.0)
    on_a_gpu = lambda layers: (Shallow(layers, GPU), "one")  # noqa: E731
    said = step_time(on_a_gpu, 32, random_rows(8))  # type: ignore[arg-type,return-value]
    assert said.host_bound == (not shorter)


@pytest.mark.parametrize("kind", ["lora", "qlora", "full"])
@pytest.mark.parametrize("hf_config", [LlamaConfig(**SIZES), Gemma3TextConfig(**SIZES)], ids=["llama", "gemma3"])
def test_every_kind_of_training_is_timed(kind: str, hf_config: Any) -> None:
    resolved, _ = resolve(
        parse_run({"model": {"id": "m"}, "data": {"train": "t.jsonl"}, "adapter": {"kind": kind}}), FACTS
    )
    said = measure(resolved, hf_config, random_rows(4))
    assert said is not None
    assert 0 < said.low <= said.seconds <= said.high < 60
    assert not said.host_bound
