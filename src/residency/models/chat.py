"""Gives a base model a chat template, and rows of its own to every special token the template needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from residency.data.templates import NamedTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def set_template(tokenizer: PreTrainedTokenizerBase, template: NamedTemplate) -> tuple[int, ...]:
    """Returns the ids of the template's special tokens: a base model never learned them, so they are to be trained.

    Answers end with the template's end of turn from now on, wherever the saved tokenizer is used.
    """
    tokenizer.chat_template = template.jinja
    tokenizer.add_special_tokens({"additional_special_tokens": list(template.special_tokens)},
                                 replace_extra_special_tokens=False)  # fmt: skip
    if template.end_of_turn:
        tokenizer.eos_token = template.end_of_turn
    ids = tokenizer.convert_tokens_to_ids(list(template.special_tokens))
    return tuple(sorted(ids))


def fit_embeddings(model: PreTrainedModel, vocabulary: int) -> int:
    """Adds embedding rows until the model has `vocabulary` of them, each starting as the mean of the old ones.

    Returns how many were added.
    """
    import torch

    before = int(model.get_input_embeddings().weight.shape[0])
    if vocabulary <= before:
        return 0
    model.resize_token_embeddings(vocabulary, mean_resizing=False)
    with torch.no_grad():
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            if module is not None and module.weight.shape[0] == vocabulary:
                module.weight[before:] = module.weight[:before].mean(dim=0)
    return vocabulary - before
