"""A client that leaves while it waits: nothing is decoded for it any more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai as sdk
import pytest
import torch
from openai import OpenAI

from residency.inference.batch import Limits
from residency.inference.host import Host
from residency.inference.host import Settings as InferenceSettings
from residency.inference.start import app_for
from residency.server.api.app import build
from residency.server.api.server import Server
from residency.server.settings import Settings
from tests.unit.inference.small import make_model, make_tokenizer
from tests.unit.server.serving import client, served

END = str(make_tokenizer().eos_token_id)
MUCH_WORK: Any = {"n": 128, "max_tokens": 450, "logit_bias": {END: -100}}
"""Half a minute of it, and more."""


@pytest.fixture(scope="module")
def inference() -> Iterator[str]:
    settings = InferenceSettings(torch.float32, torch.device("cpu"), max_waiting=200, limits=Limits(cache_tokens=4000))
    with served(app_for(Host(settings, lambda: None))) as url:
        yield url


def under_way(inference: str) -> int:
    bases = httpx.get(f"{inference}/health", trust_env=False).json()["bases"]
    return sum(one["running"] for one in bases)


def wait_until_idle(inference: str) -> None:
    end = time.monotonic() + 10
    while under_way(inference):
        assert time.monotonic() < end, "it goes on for nobody"
        time.sleep(0.05)


@contextmanager
def asking(inference: str, home: Path) -> Iterator[tuple[OpenAI, Server]]:
    """A client of an API before that inference process."""
    app = build(
        Settings(home=home / "home", inference=inference, aliases=(("small", str(make_model(home / "model"))),))
    )
    with served(app) as url, client(url) as openai:
        yield openai, app.state.server


def test_nothing_is_decoded_for_a_client_that_waits_no_longer(inference: str, tmp_path: Path) -> None:
    with asking(inference, tmp_path) as (openai, server):
        with pytest.raises(sdk.APITimeoutError):
            openai.completions.create(model="small", prompt="turn on", timeout=5, **MUCH_WORK)
        wait_until_idle(inference)
        assert server.limits.running == 0


def test_nothing_is_decoded_for_a_client_that_leaves_a_stream(inference: str, tmp_path: Path) -> None:
    with asking(inference, tmp_path) as (openai, server):
        with openai.completions.create(model="small", prompt="turn on", stream=True, **MUCH_WORK) as chunks:
            assert next(iter(chunks)).object == "text_completion"
            assert under_way(inference) > 0
        wait_until_idle(inference)
        assert server.limits.running == 0
