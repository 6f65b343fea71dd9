"""Rows of many adapters in one batch get the answers that each would get alone, and from transformers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from residency.errors import ModelError, ResidencyError
from residency.inference.language import Language
from tests.unit.inference.small import (
    Asking,
    by_transformers,
    make_adapter,
    make_batch,
    make_tokenizer,
    random_prompts,
    run,
)

SHARED = list(range(20, 60))


@pytest.fixture(scope="module")
def language() -> Language:
    tokenizer = make_tokenizer()
    return Language(tokenizer, len(tokenizer), [])


@pytest.mark.parametrize("limits", [{}, {"rows": 3, "step_tokens": 7}, {"cache_tokens": 160}], ids=str)
@pytest.mark.parametrize("shared", [(), SHARED], ids=["nothing shared", "shared start"])
def test_greedy_answers_equal_those_of_transformers_and_peft(
    model_folder: Path, adapters: list[Path], language: Language, shared: Sequence[int], limits: dict[str, int]
) -> None:
    batch = make_batch(model_folder, **limits)
    choices = [None, *adapters]
    prompts = random_prompts(10, shared=shared)
    asking = [Asking(language, prompt, choices[i % 5]) for i, prompt in enumerate(prompts)]
    run(batch, *asking)
    for one, prompt, i in zip(asking, prompts, range(10), strict=True):
        assert one.answer == by_transformers(model_folder, choices[i % 5], prompt, 12), f"row {i}"
        assert one.finish == "length"


def test_adapters_differ_from_the_base_and_from_each_other(
    model_folder: Path, adapters: list[Path], language: Language
) -> None:
    [prompt] = random_prompts(1)
    asking = [Asking(language, prompt, adapter) for adapter in (None, *adapters)]
    run(make_batch(model_folder), *asking)
    assert len({tuple(one.answer) for one in asking}) == 5


def test_rows_join_and_leave_a_running_batch(model_folder: Path, adapters: list[Path], language: Language) -> None:
    batch = make_batch(model_folder)
    prompts = random_prompts(3)
    first = Asking(language, prompts[0], max_new_tokens=30)
    batch.waiting.append(first.row)
    for _ in range(5):
        batch.step()
    second, third = Asking(language, prompts[1], adapters[0]), Asking(language, prompts[2], adapters[1])
    batch.waiting.extend([second.row, third.row])
    batch.step()
    assert len(batch.rows) == 3
    third.row.finished = True  # its client went away
    batch.step()
    assert batch.rows == [first.row, second.row]
    run(batch)
    assert first.answer == by_transformers(model_folder, None, prompts[0], 30)
    assert second.answer == by_transformers(model_folder, adapters[0], prompts[1], 12)


def test_a_stop_token_ends_an_answer_and_is_not_part_of_it(model_folder: Path, language: Language) -> None:
    [prompt] = random_prompts(1)
    stop = by_transformers(model_folder, None, prompt, 12)[5]
    one = Asking(language, prompt, stop_ids=frozenset([stop]))
    run(make_batch(model_folder), one)
    assert one.answer == by_transformers(model_folder, None, prompt, 12, [stop])
    assert one.finish == "stop"


def test_a_seed_gives_the_same_answer_in_any_company(
    model_folder: Path, adapters: list[Path], language: Language
) -> None:
    prompts = random_prompts(6)
    alone = Asking(language, prompts[0], seed=7, temperature=1.0, top_p=0.9)
    run(make_batch(model_folder), alone)
    amid = [Asking(language, prompt, [None, *adapters][i % 5], seed=i, temperature=1.3)
            for i, prompt in enumerate(prompts[1:])]  # fmt: skip
    again = Asking(language, prompts[0], seed=7, temperature=1.0, top_p=0.9)
    other = Asking(language, prompts[0], seed=8, temperature=1.0, top_p=0.9)
    run(make_batch(model_folder), *amid, again, other)
    assert again.answer == alone.answer
    assert other.answer != alone.answer


def test_more_adapters_than_places_take_turns(model_folder: Path, adapters: list[Path], language: Language) -> None:
    batch = make_batch(model_folder, adapters=1)
    prompts = random_prompts(8)
    asking = [Asking(language, prompt, adapters[i % 4]) for i, prompt in enumerate(prompts)]
    run(batch, *asking)
    assert len(batch.adapters) == 1
    for i, (one, prompt) in enumerate(zip(asking, prompts, strict=True)):
        assert one.answer == by_transformers(model_folder, adapters[i % 4], prompt, 12)


def test_an_adapter_that_was_deleted_says_so(
    model_folder: Path, adapters: list[Path], language: Language, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(adapters[0], tmp_path / "gone"))
    one = Asking(language, [5, 6, 7], folder)
    shutil.rmtree(folder)
    run(make_batch(model_folder), one)
    [error] = one.arrived
    assert isinstance(error, ModelError)
    assert error.code == "model_not_found"


def test_an_adapter_that_changed_is_read_again(
    model_folder: Path, adapters: list[Path], language: Language, tmp_path: Path
) -> None:
    batch, folder = make_batch(model_folder), tmp_path / "changing"
    for original in adapters[:2]:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(original, folder, copy_function=shutil.copy)
        one = Asking(language, [5, 6, 7], folder)
        run(batch, one)
        assert one.answer == by_transformers(model_folder, original, [5, 6, 7], 12)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"bias": "all"}, "biases"), ({"init_lora_weights": "pissa", "r": 2}, "pissa")],
    ids=["trained biases", "PiSSA"],
)
def test_an_adapter_that_would_change_the_base_is_refused(
    model_folder: Path, language: Language, tmp_path: Path, settings: dict[str, str], reason: str
) -> None:
    folder = make_adapter(model_folder, tmp_path / "changes", seed=1, **settings)
    batch = make_batch(model_folder)
    refused, plain = Asking(language, [5, 6, 7], folder), Asking(language, [5, 6, 7])
    run(batch, refused, plain)
    [error] = refused.arrived
    assert isinstance(error, ResidencyError)
    assert reason in error.message
    assert plain.answer == by_transformers(model_folder, None, [5, 6, 7], 12)


def test_an_adapter_of_another_base_is_refused_and_the_rest_goes_on(
    model_folder: Path, adapters: list[Path], language: Language, tmp_path: Path
) -> None:
    from tests.unit.inference.small import make_model

    other = make_model(tmp_path / "other", hidden_size=32)
    folder = make_adapter(other, tmp_path / "adapter", seed=1)
    batch = make_batch(model_folder)
    refused, good = Asking(language, [5, 6, 7], folder), Asking(language, [5, 6, 7], adapters[0])
    run(batch, refused, good)
    assert "belongs to the base model" in str(refused.arrived[0])
    assert good.answer == by_transformers(model_folder, adapters[0], [5, 6, 7], 12)


def test_memory_that_runs_out_costs_time_and_no_answer(
    model_folder: Path, language: Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_batch(model_folder)
    forward, passes = batch.base.forward, []

    def failing(*args: object, **kwargs: object) -> torch.Tensor:
        passes.append(args)
        if len(passes) == 6:
            raise torch.OutOfMemoryError("no memory")
        return forward(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(batch.base, "forward", failing)
    prompts = random_prompts(4)
    asking = [Asking(language, prompt) for prompt in prompts]
    run(batch, *asking)
    assert batch.counts.preempted >= 2
    assert [one.answer for one in asking] == [by_transformers(model_folder, None, prompt, 12) for prompt in prompts]
