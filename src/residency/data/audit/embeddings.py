"""Texts as vectors, without a network and without torch: the mean of static word-piece vectors.

The table and its tokenizer come in the package `wordllama` (MIT; the extra `topics`), of which only these two files are
read, never its code. Such vectors know what a text is about, and little of how it says it: paraphrases have a cosine
near 0.75, unrelated sentences below 0.1.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.sparse import csr_array
from tokenizers import Tokenizer

from residency.errors import ConfigError
from residency.progress import track

PACKAGE = "wordllama"
TABLE = "weights/l2_supercat_256.safetensors"
TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"
LONGEST_CHARACTERS = 4000
"""A longer text is known by its beginning."""
TEXTS_AT_ONCE = 8192

Vectors = NDArray[np.float32]
"""Shape (rows, dimensions); each row has length 1, or 0 where there was nothing to embed."""


@dataclass(frozen=True, slots=True, eq=False)
class Embedder:
    tokenizer: Tokenizer
    table: NDArray[np.float32]
    """Shape (vocabulary, dimensions)."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.zeros((len(texts), self.table.shape[1]), dtype=np.float32)
        with track("embedding", len(texts)) as advance:
            for first in range(0, len(texts), TEXTS_AT_ONCE):
                part = slice(first, first + TEXTS_AT_ONCE)
                vectors[part] = self._sums(texts[part])
                advance(len(texts[part]))
        return unit(vectors)

    def _sums(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Each text's word pieces added up. A piece never spans two words, so each word is cut once for all texts."""
        vocabulary: dict[str, int] = {}
        ids = array("q")
        starts = [0]
        for text in texts:
            ids.extend(vocabulary.setdefault(word, len(vocabulary)) for word in text[:LONGEST_CHARACTERS].split())
            starts.append(len(ids))
        if not vocabulary:
            return np.zeros((len(texts), self.table.shape[1]), dtype=np.float32)
        pieces = [each.ids for each in self.tokenizer.encode_batch_fast(list(vocabulary), add_special_tokens=False)]
        words = csr_array((np.ones(len(ids), np.float32), np.frombuffer(ids, np.int64), starts),
                          shape=(len(texts), len(vocabulary)))  # fmt: skip
        ends = np.cumsum([0, *map(len, pieces)])
        flat = np.fromiter((piece for word in pieces for piece in word), np.int64, ends[-1])
        spellings = csr_array((np.ones(len(flat), np.float32), flat, ends), shape=(len(pieces), len(self.table)))
        return np.asarray(words @ (spellings @ self.table))


def embedder_installed() -> bool:
    return find_spec(PACKAGE) is not None


@cache
def load_embedder(folder: Path | None = None) -> Embedder:
    """The embedder in `folder`, by default in the installed package. Raises ConfigError where that is missing."""
    spec = find_spec(PACKAGE)
    if folder is None and (spec is None or not spec.submodule_search_locations):
        raise ConfigError(
            "topics and coverage need word vectors, which are not installed",
            code="no_embeddings",
            hint="pip install 'residency[topics]' (afterwards no network is needed)",
        )
    folder = folder or Path(spec.submodule_search_locations[0])  # type: ignore[union-attr, index]
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    table = load_file(folder / TABLE)["embedding.weight"].astype(np.float32)
    return Embedder(tokenizer, table)


def unit(vectors: NDArray[np.float32]) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def blocks(count: int, width: int, cells: int = 5_000_000) -> Iterator[slice]:
    """Slices of `count` rows, of so many that a block of similarities to `width` others stays small."""
    size = max(1, cells // max(1, width))
    for first in range(0, count, size):
        yield slice(first, first + size)
