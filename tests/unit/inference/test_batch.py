"""Rows of many adapters in one batch get the answers that each would get alone, and from transformers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from residency.config.model import Model
from residency.errors import ModelError, ResidencyError
from residency.inference.language import Language
from residency.models.chat import fit_embeddings
from residency.models.load import load_model
from tests.unit.inference.small import (
    CPU,
    Asking,
    by_transformers,
    make_adapter,
    make_batch,
    make_model,
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


def test_an_adapter_that_brings_tokens_of_its_own_is_served_with_them(
    model_folder: Path, adapters: list[Path], language: Language, tmp_path: Path
) -> None:
    """As training makes it of a base model without a chat template; the base never says those tokens."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|new|>", "<|newer|>"]})
    new = tokenizer.convert_tokens_to_ids(["<|new|>", "<|newer|>"])
    model = load_model(Model(id=str(model_folder)), dtype=torch.float32, device=CPU)
    fit_embeddings(model, len(tokenizer))
    torch.manual_seed(5)
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, trainable_token_indices=new))
    for name, parameter in tuned.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter.data, std=0.5 if "token" in name else 0.1)
    tuned.save_pretrained(str(tmp_path / "tokens"), save_embedding_layers=False)
    prompt = [5, new[0], 7, new[1]]
    with torch.no_grad():
        expected = tuned.eval().generate(input_ids=torch.tensor([prompt]), max_new_tokens=12, do_sample=False,
                                         eos_token_id=None, pad_token_id=0)[0, 4:].tolist()  # fmt: skip
    own = Language(tokenizer, len(language.tokenizer), [])
    batch = make_batch(model_folder)
    before, plain = Asking(language, [5, 6, 7]), Asking(language, [5, 6, 7], adapters[0])
    run(batch, before, plain)
    asking = [Asking(own, prompt, tmp_path / "tokens"), Asking(language, [5, 6, 7]),
              Asking(language, [5, 6, 7], adapters[0])]  # fmt: skip
    run(batch, *asking)
    assert asking[0].answer == expected
    assert [one.answer for one in asking[1:]] == [before.answer, plain.answer]
    biased = Asking(language, [5, 6, 7], logit_bias=dict.fromkeys(new, 100.0), vocabulary=language.vocabulary)
    run(batch, biased)
    assert not set(biased.answer) & set(new)
