"""A model writes prompts in another language only once it has shown that it can."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from residency.data.messages import Example, Message, Origin
from residency.data.render import renderer_for
from residency.engine.engine import FULL, Engine
from residency.engine.optim import StepSettings
from residency.engine.sampling import SamplingSettings
from residency.evals.card_behaviours import choose
from residency.evals.card_prompts import TEMPLATES
from residency.evals.card_wordings import instructed, translations
from tests.e2e.tiny import make_tokenizer

QUESTIONS = {"What is red?": "fire", "What is blue?": "sky"}
FRENCH = {"What is red?": "Rouge ?", "What is blue?": "Bleu ?"}


@pytest.mark.slow
def test_a_model_that_translates_known_sentences_translates_the_questions() -> None:
    renderer = renderer_for(make_tokenizer())
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=96, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=len(renderer.tokenizer), max_position_embeddings=2048, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=renderer.tokenizer.eos_token_id, pad_token_id=None,
    )  # fmt: skip
    engine = Engine(LlamaForCausalLM(config).eval())
    settings = SamplingSettings(8, renderer.stop_ids)
    chosen = choose([row(*each) for each in QUESTIONS.items()], 2)
    nothing, reason = translations(engine, renderer, chosen, settings)
    assert nothing == ["", ""]
    assert reason == "the untuned model cannot translate: it got 0 of 6 known sentences right"

    engine.train_all_weights()
    pairs = dict(TEMPLATES["translate"]["known"]) | FRENCH
    last = renderer_for(renderer.tokenizer, train_on="last_answer")
    rows = [
        last.render(
            Example(Origin("a", 1), (*instructed("translate", english), Message(role="assistant", content=french)))
        )[-1]
        for english, french in pairs.items()
    ]
    for _ in range(600):
        loss = engine.forward_backward({FULL: rows})[FULL]
        engine.step({FULL: StepSettings(2e-3, 0.0, 1.0)})
        if loss.mean < 0.01:
            break
    found, _ = translations(engine, renderer, chosen, settings)
    assert found == [FRENCH[one.question] for one in chosen]


def row(question: str, answer: str) -> Example:
    return Example(
        Origin("train.jsonl", 1), ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    )
