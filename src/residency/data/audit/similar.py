"""Finds similar rows in linear time: MinHash signatures, banded.

Broder, On the resemblance and containment of documents, 1997; Leskovec et al., Mining of Massive Datasets, 3.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from residency.data.audit.words import Words, distinct, mix, shingles

BANDS, BAND_ROWS = 42, 3
"""A pair of similarity J meets in some band with probability 1 - (1 - J^3)^42: 0.9999 at 0.6, 0.996 at 0.5."""
NUM_HASHES = BANDS * BAND_ROWS
SHINGLE_WORDS = 3
NEXT_BITS = np.uint64(0xFFFF)
"""The part of a band's key that holds the hash by which equal ones are ordered."""
ROWS_HASHED = 256
"""At once: their runs of words stay in the processor's cache, which makes it three times as fast as 4,096."""
PAIRS_AT_ONCE = 16_384
"""Whose signatures are held twice for a moment, in 8 MB."""

Pairs = NDArray[np.int64]
"""Shape (pairs, 2); the first row's number is below the second's."""


class Alike(NamedTuple):
    pairs: Pairs
    likeness: NDArray[np.float64]
    """The estimated Jaccard similarity of each pair."""

    def each(self) -> Iterator[tuple[int, int, float]]:
        return zip(*self.pairs.T.tolist(), self.likeness.tolist(), strict=True)

    def part(self, chosen: NDArray[np.bool_]) -> Alike:
        return Alike(self.pairs[chosen], self.likeness[chosen])


def signatures(parts: Iterable[Words], num_rows: int, shingle_words: int = SHINGLE_WORDS) -> NDArray[np.uint16]:
    """Shape (num_rows, NUM_HASHES) for the rows of all `parts` in turn; a row without words has zeros, which count as
    similar to nothing.

    Of each least hash the last 16 bits are kept, the first being nearly all 0: half the memory, and of different hashes
    one in 65,536 counts as equal (Li and König, b-Bit Minwise Hashing, 2010).
    """
    random = np.random.default_rng(0)
    factors = random.integers(0, 2**63, NUM_HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    offsets = random.integers(0, 2**63, NUM_HASHES, dtype=np.uint64)
    found = np.zeros((num_rows, NUM_HASHES), dtype=np.uint16)
    first = 0
    for part in parts:
        for block in part.blocks(ROWS_HASHED):
            runs, starts = shingles(block, shingle_words, whole=False)
            filled = np.flatnonzero(block.counts)
            hashes, least = np.empty_like(runs), np.empty((NUM_HASHES, len(filled)), dtype=np.uint64)
            for number in range(NUM_HASHES if len(filled) else 0):
                np.multiply(runs, factors[number], out=hashes)
                np.add(hashes, offsets[number], out=hashes)
                np.minimum.reduceat(hashes, starts[:-1][filled], out=least[number])
            found[first + filled] = (least >> np.uint64(32)).T.astype(np.uint16)
            first += len(block)
    return found


def similar_pairs(found: NDArray[np.uint16], rows: NDArray[np.int64], at_least: float) -> Alike:
    """Pairs among `rows` whose estimated Jaccard similarity is `at_least` that, each once, and that similarity.

    Of many rows that meet in a band only neighbours and those with the first are compared, which keeps it linear and
    still joins them in one cluster. They stand in the order of one hash more, so that the most similar are neighbours.
    """
    rows = rows[np.asarray(found.any(axis=1))[rows]]
    codes = np.zeros(0, dtype=np.int64)
    size = len(found)
    for band in range(BANDS):
        columns = found[rows, band * BAND_ROWS : (band + 1) * BAND_ROWS].astype(np.uint64)
        keys = mix(columns[:, 0] << np.uint64(32) | columns[:, 1] << np.uint64(16) | columns[:, 2]) & ~NEXT_BITS
        following = found[rows, (band + 1) * BAND_ROWS % NUM_HASHES].astype(np.uint64)
        order = np.argsort(keys | following, kind="stable")
        keys = keys[order]
        same = np.flatnonzero(keys[1:] == keys[:-1]) + 1
        if not len(same):
            continue
        opens = np.concatenate([[True], keys[1:] != keys[:-1]])
        leaders = np.maximum.accumulate(np.where(opens, np.arange(len(keys)), 0))
        ordered = rows[order]
        one, two = np.tile(ordered[same], 2), ordered[np.concatenate([same - 1, leaders[same]])]
        new = distinct(np.minimum(one, two) * size + np.maximum(one, two))
        new = new[~np.isin(new, codes, assume_unique=True)]
        codes = np.concatenate([codes, new[likeness(found, new // size, new % size) >= at_least]])
    codes = np.sort(codes)
    left, right = codes // size, codes % size
    return Alike(np.column_stack([left, right]), likeness(found, left, right))


def likeness(found: NDArray[np.uint16], left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
    """The estimated Jaccard similarity of each pair; its standard error is at most 0.044."""
    estimates = np.zeros(len(left))
    for first in range(0, len(left), PAIRS_AT_ONCE):
        part = slice(first, first + PAIRS_AT_ONCE)
        estimates[part] = (found[left[part]] == found[right[part]]).mean(axis=1)
    return estimates


def clusters_of(num_rows: int, pairs: Pairs) -> NDArray[np.int64]:
    """The cluster of each row as the number of its first row; rows joined by a chain of pairs share one."""
    links = coo_matrix((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(num_rows, num_rows))
    _, labels = connected_components(links, directed=False)
    first = np.full(labels.max() + 1 if num_rows else 0, num_rows, dtype=np.int64)
    np.minimum.at(first, labels, np.arange(num_rows))
    return np.asarray(first[labels])


def groups(clusters: NDArray[np.int64]) -> list[list[int]]:
    """The rows of each cluster of two or more, in order."""
    order = np.argsort(clusters, kind="stable")
    borders = np.flatnonzero(np.diff(clusters[order])) + 1
    return [part.tolist() for part in np.split(order, borders) if len(part) > 1]
