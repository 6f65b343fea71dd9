"""Small models, adapters and rows for the tests of the inference process."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from residency.config.model import Model
from residency.data.templates import NAMED
from residency.errors import ResidencyError
from residency.inference.adapters import source
from residency.inference.batch import Batch, Limits
from residency.inference.grammar import Constraint
from residency.inference.language import Language
from residency.inference.model import BaseModel
from residency.inference.rows import Manner, Piece, Row
from residency.models.load import load_model

CPU = torch.device("cpu")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    'user assistant system {"name": "kitchen light", "on": true, "level": 12}\n',
    "turn on the light, please.",
] * 9


def make_tokenizer(special: Sequence[str] = SPECIAL, template: str = NAMED["chatml"].jinja) -> PreTrainedTokenizerFast:
    """Byte-level BPE, trained on the spot."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380, special_tokens=list(special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=special[-1], pad_token=special[0])
    fast.chat_template = template
    return fast


def make_model(folder: Path, **changes: Any) -> Path:
    """Two layers, grouped heads, random weights."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    shape: dict[str, Any] = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 512,
        "initializer_range": 0.1, "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    LlamaForCausalLM(LlamaConfig(**(shape | changes))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_adapter(base: Path, folder: Path, *, seed: int, **settings: Any) -> Path:
    """An adapter whose B is not zero, so that it changes the answers."""
    torch.manual_seed(seed)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", lora_alpha=16, **settings)
    model = get_peft_model(load_model(Model(id=str(base)), dtype=torch.float32, device=CPU), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=0.1)
    model.save_pretrained(str(folder))
    return folder


def make_base(folder: Path) -> BaseModel:
    return BaseModel(load_model(Model(id=str(folder)), dtype=torch.float32, device=CPU))


def make_batch(folder: Path, **limits: Any) -> Batch:
    return Batch(make_base(folder), Limits(**({"cache_tokens": 4000} | limits)))


@cache
def alone(base: Path, adapter: Path | None) -> Any:
    model = load_model(Model(id=str(base)), dtype=torch.float32, device=CPU)
    return model if adapter is None else PeftModel.from_pretrained(model, str(adapter)).eval()


def by_transformers(
    base: Path, adapter: Path | None, prompt: Sequence[int], new_tokens: int, stop_ids: Sequence[int] = ()
) -> list[int]:
    """What transformers and PEFT alone answer, greedily; without the stop token."""
    model = alone(base, adapter)
    ids = torch.tensor([list(prompt)])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False,
        eos_token_id=list(stop_ids) or None, pad_token_id=0,
    )  # fmt: skip
    new = out[0, len(prompt) :].tolist()
    return new[:-1] if new and new[-1] in stop_ids else new


class Asking:
    """One row in a batch, and what it was told."""

    def __init__(
        self, language: Language, prompt: Sequence[int], adapter: Path | None = None, *, seed: int = 0,
        stops: Sequence[str] = (), constraint: Constraint | None = None, **manner: Any,
    ) -> None:  # fmt: skip
        self.arrived: list[Piece | ResidencyError] = []
        wanted: dict[str, Any] = {"max_new_tokens": 12, "temperature": 0.0} | manner
        self.row = Row(
            0, list(prompt), Manner(**wanted), language.stream(stops), self.arrived.append, random.Random(seed),
            source(adapter) if adapter else None, language.size, constraint,
        )  # fmt: skip

    @property
    def answer(self) -> list[int]:
        return self.row.tokens[len(self.row.prompt) :]

    @property
    def pieces(self) -> list[Piece]:
        return [one for one in self.arrived if isinstance(one, Piece)]

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def finish(self) -> str | None:
        return self.pieces[-1].finish if self.pieces else None


def run(batch: Batch, *asking: Asking, steps: int = 2000) -> None:
    batch.waiting.extend(one.row for one in asking)
    for _ in range(steps):
        if batch.idle:
            return
        batch.step()
    raise AssertionError("the batch does not come to an end")


def random_prompts(count: int, *, seed: int = 0, longest: int = 30, shared: Sequence[int] = ()) -> list[list[int]]:
    numbers = random.Random(seed)
    return [[*shared, *(numbers.randrange(3, 300) for _ in range(numbers.randrange(1, longest)))] for _ in range(count)]
