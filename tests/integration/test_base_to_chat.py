"""A base model without a template becomes a chat model that answers and stops: pre-training, then plain SFT."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from residency.config.load import parse_run
from residency.pipeline import open_session, run
from residency.records import EvalResult, RunFolder
from tests.conftest import tiny_llama

ANIMALS = ["cat", "dog", "owl", "fox", "bee", "ant", "cow", "pig"]
SOUNDS = ["meow", "woof", "hoot", "yelp", "buzz", "tick", "moo", "oink"]


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def base_model(folder: Path) -> str:
    """Random weights over bytes; no chat template, no special token but the end of a text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|end|>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>").save_pretrained(
        folder
    )
    tiny_llama(vocab_size=len(vocabulary), bos_token_id=0, eos_token_id=0, pad_token_id=0).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base after continued pre-training on plain text about animals: a whole model folder."""
    folder = tmp_path_factory.mktemp("pretrain")
    texts = [{"text": f"the {animal} says {sound}."} for animal, sound in zip(ANIMALS, SOUNDS, strict=True)]
    config = parse_run({
        "name": "base", "model": {"id": base_model(folder / "model")}, "method": {"name": "pretrain"},
        "adapter": {"kind": "full"}, "data": {"train": write_jsonl(folder / "text.jsonl", texts), "eval": None},
        "train": {"max_steps": 120, "epochs": 1000, "batch_size": 8, "learning_rate": 3e-3},
        "speed": {"threads": 1, "precision": "fp32"},
    })  # fmt: skip
    return run(config, folder / "runs").path


def test_continued_pretraining_learns_the_text(pretrained: Path) -> None:
    losses = [metric.loss for metric in RunFolder(pretrained).metrics() if metric.split == "train"]
    assert losses[0] > 5
    assert losses[-1] < 0.5


def test_plain_sft_with_a_named_template_makes_it_chat(pretrained: Path, tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"{animal}?"}, {"role": "assistant", "content": sound}]}
        for animal, sound in zip(ANIMALS, SOUNDS, strict=True)
    ]
    data = write_jsonl(tmp_path / "chat.jsonl", rows)
    config = parse_run({
        "name": "chat", "model": {"id": str(pretrained / "model"), "chat_template": "chatml"},
        "adapter": {"kind": "lora", "rank": 16}, "data": {"train": data, "eval": None, "test": data},
        "train": {"max_steps": 150, "epochs": 1000, "batch_size": 8, "learning_rate": 1e-2},
        "speed": {"threads": 1, "precision": "fp32"},
    })  # fmt: skip
    finished = run(config, tmp_path / "runs")

    before = finished.read("eval/test.base.json", EvalResult)
    after = finished.read("eval/test.tuned.json", EvalResult)
    assert before.summaries["string_check"].value == 0
    assert [answer.output for answer in after.answers] == SOUNDS
    assert all(answer.finished for answer in after.answers), "the model learned to end its turn"

    adapter = load_file(finished / "adapter" / "adapter_model.safetensors")
    rows_of_tokens = [tensor for name, tensor in adapter.items() if "trainable_tokens" in name]
    assert [len(tensor) for tensor in rows_of_tokens] == [2], "<|im_start|> and <|im_end|> travel with the adapter"

    session = open_session(finished)
    prompt = session.renderer.prompt_ids([{"role": "user", "content": "owl?"}])
    plain = AutoPeftModelForCausalLM.from_pretrained(str(finished / "adapter"), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(finished / "adapter")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "owl?"}], add_generation_prompt=True,
                                         return_dict=False) == prompt  # fmt: skip
    output = plain.generate(
        torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=tokenizer.eos_token_id
    )
    assert tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True) == "hoot"
