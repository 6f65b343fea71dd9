"""A model writes prompts in another language only once it has shown that it can."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from residency.data.messages import Example, Origin
from residency.data.render import renderer_for
from residency.engine.engine import Engine
from residency.engine.sampling import SamplingSettings
from residency.evals.card_behaviours import choose
from residency.evals.card_wordings import translations
from tests.e2e.tiny import make_tokenizer

QUESTIONS = {"What is red?": "fire", "What is blue?": "sky"}


def test_a_model_that_cannot_translate_known_sentences_translates_no_questions() -> None:
    renderer = renderer_for(make_tokenizer())
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=len(renderer.tokenizer), max_position_embeddings=2048, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=renderer.tokenizer.eos_token_id, pad_token_id=None,
    )  # fmt: skip
    engine = Engine(LlamaForCausalLM(config).eval())
    settings = SamplingSettings(8, renderer.stop_ids)
    chosen = choose([row(*each) for each in QUESTIONS.items()], 2)
    nothing, reason = translations(engine, renderer, chosen, settings)
    assert nothing == ["", ""]
    assert reason == "the untuned model cannot translate: it got 0 of 6 known sentences right"


def row(question: str, answer: str) -> Example:
    return Example(
        Origin("train.jsonl", 1), ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    )
