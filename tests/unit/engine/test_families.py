"""Attention by document gives each family of models its own logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from residency.data.messages import Rendered
from residency.engine.engine import Engine
from tests.conftest import random_rows, rows_with_a_shared_start

SHAPE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
                         "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 512,
                         "initializer_range": 0.1, "pad_token_id": 0, "attn_implementation": "eager"}  # fmt: skip
BOTH = ["sliding_attention", "full_attention"]
FAMILIES: dict[str, Callable[[], Any]] = {
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8)),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SHAPE, head_dim=16, sliding_window=8, layer_types=BOTH, query_pre_attn_scalar=16,
                     attn_logit_softcapping=2.0, final_logit_softcapping=3.0)),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SHAPE, head_dim=16, sliding_window=8, layer_types=BOTH, query_pre_attn_scalar=16)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**SHAPE)),
}  # fmt: skip


def make(family: str) -> Any:
    torch.manual_seed(0)
    return FAMILIES[family]().eval()


def plain_logprobs(model: Any, row: Rendered) -> np.ndarray:
    ids = torch.from_numpy(row.input_ids).long()
    with torch.no_grad():
        logits = model(ids[None]).logits[0, :-1]
    trained = torch.from_numpy(row.trained)[1:]
    return -F.cross_entropy(logits[trained].float(), ids[1:][trained], reduction="none").numpy()


@pytest.mark.parametrize("rows", [random_rows(5), rows_with_a_shared_start(5)], ids=["unlike rows", "shared start"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_score_as_in_the_models_own_eager_attention(family: str, rows: list[Rendered]) -> None:
    engine, plain = Engine(make(family)), make(family)
    assert plain.config._attn_implementation == "eager"
    for row, score in zip(rows, engine.logprobs(None, rows), strict=True):
        np.testing.assert_allclose(score.logprobs, plain_logprobs(plain, row), rtol=1e-4, atol=2e-5)
