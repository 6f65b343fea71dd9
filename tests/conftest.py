"""Small real models and rows, made on the spot."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: test processes beside each other would spin

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from residency.data.messages import Origin, Rendered
from residency.models.starter import fetch_starter, starter_path

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """A run sets the number of threads; other tests keep theirs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests remember of tiny models goes into no user's cache; the starter model is fetched there and stays."""
    if any(item.get_closest_marker("starter") for item in request.session.items):
        fetch_starter()
    before, own = os.environ.get("RESIDENCY_CACHE"), tmp_path_factory.mktemp("cache")
    if found := starter_path():
        (own / found.name).symlink_to(found)
    os.environ["RESIDENCY_CACHE"] = str(own)
    yield
    os.environ.pop("RESIDENCY_CACHE")
    if before is not None:
        os.environ["RESIDENCY_CACHE"] = before


def tiny_llama(seed: int = 0, **changes: int | bool) -> LlamaForCausalLM:
    """Two layers, grouped heads, random weights."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = dict(  # noqa: C408  # reads as the call it becomes
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=300, max_position_embeddings=512, tie_word_embeddings=True, initializer_range=0.1,
    )  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**(settings | changes))).eval()


def random_rows(count: int, *, longest: int = 40, seed: int = 0, vocab: int = 300) -> list[Rendered]:
    """Rows of different lengths whose second half is trained."""
    random = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        length = int(random.integers(4, longest))
        trained = np.arange(length) >= length // 2
        ids = random.integers(3, vocab, length).astype(np.int32)
        rows.append(Rendered(ids, trained, Origin("random", index + 1)))
    return rows


def rows_with_a_shared_start(count: int, *, shared: int = 12) -> list[Rendered]:
    """As after one system turn: the first tokens are the same in every row, and only later ones are trained."""
    start = np.arange(5, 5 + shared, dtype=np.int32)
    return [
        Rendered(np.append(start, row.input_ids), np.append(np.zeros(shared, bool), row.trained), row.origin)
        for row in random_rows(count)
    ]


@pytest.fixture
def make_model() -> Callable[..., LlamaForCausalLM]:
    return tiny_llama


@pytest.fixture
def make_rows() -> Callable[..., list[Rendered]]:
    return random_rows
