"""The time of a step is told from real steps of shallow models."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Gemma3TextConfig, LlamaConfig

from residency.config.load import parse_run
from residency.config.resolve import resolve
from residency.stages.trial import DEPTHS, measure, step_seconds
from tests.conftest import random_rows
from tests.unit.stages.test_model import FACTS

SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 12, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 300,
}  # fmt: skip


def test_what_two_depths_take_gives_what_all_layers_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of 2 ms, and 3 ms for each layer."""
    monkeypatch.setattr("residency.stages.trial._timed", lambda layers, name, batch: 0.002 + 0.003 * layers)
    for depth in (1, *DEPTHS, 32):
        said = step_seconds(lambda layers: (layers, "one"), depth, [])  # type: ignore[arg-type,return-value]
        assert said == pytest.approx(0.002 + 0.003 * depth)


@pytest.mark.parametrize("kind", ["lora", "qlora", "full"])
@pytest.mark.parametrize("hf_config", [LlamaConfig(**SIZES), Gemma3TextConfig(**SIZES)], ids=["llama", "gemma3"])
def test_every_kind_of_training_is_timed(kind: str, hf_config: Any) -> None:
    resolved, _ = resolve(
        parse_run({"model": {"id": "m"}, "data": {"train": "t.jsonl"}, "adapter": {"kind": kind}}), FACTS
    )
    seconds = measure(resolved, hf_config, random_rows(4))
    assert seconds is not None
    assert 0 < seconds < 60
