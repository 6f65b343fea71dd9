"""Topics: what the prompts are about, how much of the data each topic has, and how alike its answers are in style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from residency.data.audit.embeddings import Vectors, blocks, unit
from residency.data.audit.findings import Finding
from residency.data.audit.table import Table
from residency.data.audit.words import Vocabulary, read_words, row_frequency
from residency.wording import counted

MOST_TOPICS = 100
FITTED_ROWS = 20_000
"""Centres are found on a sample of at most so many rows, and every row is then given to its nearest: linear time."""
ROUNDS = 25
NAME_WORDS = 3
SHORTEST_NAME_WORD = 3
COMMON = 1.5
"""A word names a topic only where its share of the rows is more than this many times that elsewhere."""
MAP_POINTS = 2000
MIXED, UNEVEN = 0.5, 1.5
"""A topic's answers are uneven where a style feature's variance reaches MIXED (a yes-no feature does when 15 % of the
rows differ from the others) and is UNEVEN times that of the median topic."""
FEWEST_ROWS = 20
"""Style is not judged on fewer."""

STYLE = ("length", "lines", "capital first", "full stop last", "markdown", "JSON", "exclamation", "question")


@dataclass(frozen=True, slots=True)
class Topic:
    name: str
    """Its most distinctive words."""
    share: float
    """Of all rows."""
    style_variances: NDArray[np.float64]
    """Shape (len(STYLE),): how much each feature of its answers varies; 1 is half yes, half no."""
    rows: NDArray[np.int64]
    """Those nearest to the topic's centre first."""


@dataclass(frozen=True, slots=True)
class Topics:
    of_row: NDArray[np.int64]
    """Shape (rows,): each row's topic."""
    topics: list[Topic]
    """Largest first."""
    positions: NDArray[np.float32]
    """Shape (rows, 2): the rows on a map (the two main axes of their vectors)."""


def find_topics(table: Table, vectors: Vectors, seed: int = 0) -> Topics:
    """sqrt(rows / 2) topics, at most MOST_TOPICS. `vectors` embed the `subjects`, of which there is at least one."""
    count = min(MOST_TOPICS, max(1, round(math.sqrt(len(table) / 2))))
    labels, centres = spherical_k_means(vectors, count, seed)
    names = distinctive_words(subjects(table), labels, len(centres))
    style = style_features(table.answers)
    topics = []
    for label, centre in enumerate(centres):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(-(vectors[rows] @ centre), kind="stable")]
        topics.append(Topic(names[label], len(rows) / len(table), style[rows].var(axis=0), rows))
    order = sorted(range(len(topics)), key=lambda label: -topics[label].share)
    rank = np.argsort(order)
    return Topics(rank[labels], [topics[label] for label in order], flat_map(vectors))


def subjects(table: Table) -> list[str]:
    """What the rows are about: their prompts; of plain text, the text."""
    return [prompt or answer for prompt, answer in zip(table.prompts, table.answers, strict=True)]


def spherical_k_means(vectors: Vectors, count: int, seed: int) -> tuple[NDArray[np.int64], Vectors]:
    """(each row's cluster, the centres) by cosine (Dhillon and Modha 2001); clusters that stay empty are left out."""
    random = np.random.default_rng(seed)
    sample = vectors
    if len(vectors) > FITTED_ROWS:
        sample = vectors[np.sort(random.choice(len(vectors), FITTED_ROWS, replace=False))]
    centres = far_apart(sample, count, random)
    labels = np.full(len(sample), -1)
    for _ in range(ROUNDS):
        before, labels = labels, nearest(sample, centres)
        if np.array_equal(before, labels):
            break
        members = csr_array((np.ones(len(sample), np.float32), (labels, np.arange(len(sample)))),
                            shape=(len(centres), len(sample)))  # fmt: skip
        sums = members @ sample
        used = np.bincount(labels, minlength=len(centres)) > 0
        centres[used] = unit(sums[used])
    labels = nearest(vectors, centres)
    used_labels, labels = np.unique(labels, return_inverse=True)
    return labels, centres[used_labels]


def far_apart(vectors: Vectors, count: int, random: np.random.Generator) -> Vectors:
    """First centres as k-means++ draws them: each row with the chance of its squared distance to those before."""
    chosen = [int(random.integers(len(vectors)))]
    distance = np.full(len(vectors), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.maximum(0, 1 - vectors @ vectors[chosen[-1]]))
        total = distance.sum(dtype=np.float64)
        if total <= 0:
            break
        chosen.append(int(random.choice(len(vectors), p=distance.astype(np.float64) / total)))
    return vectors[chosen].copy()


def nearest(vectors: Vectors, centres: Vectors) -> NDArray[np.int64]:
    parts = [(vectors[part] @ centres.T).argmax(axis=1) for part in blocks(len(vectors), len(centres))]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def distinctive_words(texts: Sequence[str], labels: NDArray[np.int64], count: int) -> list[str]:
    """For each topic the words whose share of its rows stands out most against the rest."""
    vocabulary = Vocabulary()
    words = read_words(texts, vocabulary)
    everywhere = row_frequency(words, len(vocabulary))
    spellings = np.array(vocabulary.words(), dtype=object)
    speaking = np.array([len(word) >= SHORTEST_NAME_WORD and word.isalpha() for word in spellings])
    names = []
    for label in range(count):
        rows = np.flatnonzero(labels == label)
        inside = row_frequency(words.rows(rows), len(vocabulary))
        rest = len(texts) - len(rows)
        share, other = inside / max(1, len(rows)), (everywhere - inside + 0.5) / (rest + 1)
        score = np.where(speaking & (inside > 0), share * np.log(share / other / COMMON + 1e-9), -np.inf)
        best = np.argsort(-score, kind="stable")[:NAME_WORDS]
        names.append(", ".join(spellings[best[score[best] > 0]]) or "other")
    return names


def style_features(answers: Sequence[str]) -> NDArray[np.float64]:
    """Shape (rows, features): response features in the scale of their variance, log sizes and 0 or 2 for no or yes."""
    return np.array([style_of(answer.strip()) for answer in answers], dtype=np.float64).reshape(-1, len(STYLE))


def style_of(answer: str) -> tuple[float, ...]:
    marked = any(mark in answer for mark in ("**", "```", "\n- ", "\n* ", "\n#")) or answer.startswith(
        ("- ", "* ", "#")
    )
    return (
        math.log1p(len(answer)),
        math.log1p(answer.count("\n")),
        2 * answer[:1].isupper(),
        2 * answer.endswith((".", "\N{IDEOGRAPHIC FULL STOP}")),
        2 * marked,
        2 * (answer[:1] in ("{", "[") and answer[-1:] in ("}", "]")),
        2 * ("!" in answer),
        2 * answer.endswith("?"),
    )


def flat_map(vectors: Vectors) -> NDArray[np.float32]:
    """The rows in the plane of their two main axes (principal components)."""
    centred = vectors - vectors.mean(axis=0, keepdims=True)
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, :-3:-1]
    axes *= np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1, 1)
    return np.asarray(centred @ axes, dtype=np.float32)


def map_points(found: Topics, table: Table, most: int = MAP_POINTS) -> list[dict[str, object]]:
    """At most `most` rows, evenly taken, for a plot: x, y, topic and the row's origin."""
    step = max(1, math.ceil(len(found.of_row) / most))
    return [
        {"x": round(float(x), 4), "y": round(float(y), 4), "topic": int(topic), "row": str(table.origin(row))}
        for row, topic, (x, y) in zip(
            range(0, len(table), step), found.of_row[::step], found.positions[::step], strict=True
        )
    ]


def check_topics(found: Topics, table: Table) -> list[Finding]:
    """The topics with their shares and map, and those whose answers are uneven in style."""
    listed = [
        {"name": each.name, "share": each.share, "rows": len(each.rows),
         "style_variance": dict(zip(STYLE, each.style_variances.round(4).tolist(), strict=True)),
         "examples": [str(origin) for origin in table.origins(each.rows[:3])]}
        for each in found.topics
    ]  # fmt: skip
    largest = "; ".join(f"{each.name} ({each.share:.0%})" for each in found.topics[:3])
    topics = counted(len(found.topics), "topic")
    message = f"{topics}; the largest: {largest}. Look whether what matters most has its share."
    overview = Finding("topics", "note", message, data={"topics": listed, "map": map_points(found, table)})
    return [overview, *uneven_topics(found, table)]


def uneven_topics(found: Topics, table: Table) -> list[Finding]:
    judged = [each for each in found.topics if len(each.rows) >= FEWEST_ROWS]
    if len(judged) < 2:
        return []
    usual = np.median([each.style_variances for each in judged], axis=0)
    findings = []
    for each in judged:
        excess = np.where(each.style_variances >= MIXED, each.style_variances / np.maximum(usual, 1e-3), 0)
        feature = int(excess.argmax())
        if excess[feature] >= UNEVEN:
            findings.append(Finding(
                "uneven_style", "note",
                f"Answers about {each.name} ({len(each.rows):,} rows) are of mixed style ({STYLE[feature]}), more than "
                "those of other topics; agree on one.",
                table.origins(each.rows), {"topic": each.name, "feature": STYLE[feature],
                                           "variance": float(each.style_variances[feature])},
            ))  # fmt: skip
    return findings
