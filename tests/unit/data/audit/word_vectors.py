"""A small embedder made on the spot: real files in the layout of the real one, and a few words that have a meaning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from residency.data.audit.embeddings import TABLE, TOKENIZER, Embedder, load_embedder

MEANINGS = [
    ["cat", "dog", "horse", "animal", "fur", "paw"],
    ["bread", "soup", "cheese", "cook", "oven", "recipe"],
    ["train", "car", "road", "wheel", "drive", "ticket"],
]
COMMON = ["what", "is", "the", "a", "about", "tell", "me"]


def make_embedder(folder: Path) -> Embedder:
    """Words of one meaning point the same way, common words nowhere much, all others nowhere."""
    words = ["[UNK]", *COMMON, *(word for group in MEANINGS for word in group)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    random = np.random.default_rng(0)
    table = np.zeros((len(words), 8), dtype=np.float16)
    table[1 : 1 + len(COMMON)] = random.normal(0, 0.05, (len(COMMON), 8))
    for axis, group in enumerate(MEANINGS):
        for word in group:
            table[words.index(word)] = random.normal(0, 0.15, 8)
            table[words.index(word), axis] += 1
    for name in (TABLE, TOKENIZER):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / TOKENIZER))
    save_file({"embedding.weight": table}, folder / TABLE)
    return load_embedder(folder)


def prompts(count: int, *, meanings: tuple[int, ...] = (0, 1, 2), seed: int = 0) -> list[str]:
    """Prompt `i` is about meaning `i` modulo their number."""
    random = np.random.default_rng(seed)
    chosen = [MEANINGS[meanings[i % len(meanings)]] for i in range(count)]
    return [f"tell me about the {' '.join(random.choice(group, 3, replace=False))}" for group in chosen]
