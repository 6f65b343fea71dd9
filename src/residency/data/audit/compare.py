"""Rows compared with rows: repeated, nearly repeated, contradicting each other, or standing in the test as well."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from residency.data.audit.similar import Pairs, clusters_of, signatures, similar_pairs
from residency.data.audit.table import Table
from residency.data.audit.words import Vocabulary, Words, read_words, row_frequency, shingles

NEAR_ROW = 0.6
"""Jaccard similarity of two rows that are nearly the same. At 0.8 a third of those in short rows is missed."""
ALIKE, ALIKE_WORDS = 0.4, 0.85
"""Two texts less similar than NEAR_ROW are still copies where they share nearly all words and these runs of words."""
NEAR_PROMPT = 0.5
NEAR_ANSWER = 0.5
NEAR_LEAK = 0.7
LEAK_WORDS = 8
LEAK_CONTAINED = 0.6
WORDS_A_CHANGE = 15
"""One word may be added or left out for so many, and the question is still the same."""

FILLERS = frozenset(
    "a an the please kindly hi hey hello could would can will you i me my we us just so well ok okay thanks thank "
    "is are was were do does did be to of for tell say explain know want like need question answer now then that this".split()
)
"""English words that make no other question of a question. Other languages go without such a list."""


@dataclass(frozen=True, slots=True)
class Compared:
    """The rows as word ids, and what they share."""

    words: list[str]
    """By id."""
    frequency: NDArray[np.int64]
    """Prompts that hold the word, by id."""
    prompts: Words
    answers: Words
    rows: Words
    """Prompt and answer of each row as one."""
    keys: NDArray[np.int64]
    """The cluster of rows that are the same but for case and punctuation."""
    num_train: int
    """The rows before this one are for training, those from it on are the test's."""


def compare_rows(table: Table, num_train: int) -> Compared:
    vocabulary = Vocabulary()
    prompts, answers = read_words(table.prompts, vocabulary), read_words(table.answers, vocabulary)
    rows = joined(prompts, answers, len(vocabulary))
    return Compared(
        vocabulary.words(), row_frequency(prompts, len(vocabulary)), prompts, answers, rows,
        equal_rows(rows, table, use_systems=True), num_train,
    )  # fmt: skip


def joined(prompts: Words, answers: Words, separator: int) -> Words:
    """Each row's prompt, one id that is no word, and its answer."""
    starts = prompts.starts + answers.starts + np.arange(len(prompts) + 1)
    ids = np.full(int(starts[-1]), separator, dtype=np.int32)
    for part, shift in ((prompts, 0), (answers, None)):
        places = np.arange(len(part.ids)) + np.repeat(starts[:-1] - part.starts[:-1], part.counts)
        if shift is None:
            places += np.repeat(prompts.counts + 1, part.counts)
        ids[places] = part.ids
    return Words(ids, starts)


def equal_rows(words: Words, table: Table, *, use_systems: bool) -> NDArray[np.int64]:
    """Rows of the same words in the same order (and system text); those without a word are compared as they stand."""
    first: dict[tuple[bytes, str], int] = {}
    keys = np.empty(len(words), dtype=np.int64)
    for row in range(len(words)):
        content = words.ids[words.starts[row] : words.starts[row + 1]].tobytes()
        if words.counts[row] <= 1:
            content += f"{table.prompts[row]}\0{table.answers[row]}".encode(errors="replace")
        keys[row] = first.setdefault((content, table.systems[row] if use_systems else ""), row)
    return keys


def near_clusters(compared: Compared) -> NDArray[np.int64]:
    """The cluster of each training row, exact copies included, as the number of its first row."""
    number = compared.num_train
    keys = compared.keys[:number]
    unique = np.unique(keys)
    pairs, likeness = similar_pairs(signatures(compared.rows), unique, ALIKE)
    near = [(a, b) for a, b, like in zip(*pairs.T.tolist(), likeness, strict=True)
            if (like >= NEAR_ROW or overlap(compared.rows.row(a), compared.rows.row(b)) >= ALIKE_WORDS)
            and is_near_copy(compared, a, b)]  # fmt: skip
    exact = np.column_stack([keys, np.arange(number)])[keys != np.arange(number)]
    return clusters_of(number, np.concatenate([np.array(near, dtype=np.int64).reshape(-1, 2), exact]))


def is_near_copy(compared: Compared, left: int, right: int) -> bool:
    """Whether two similar rows say the same, rather than being two rows made from one pattern.

    Rows of one pattern differ in what fills it: in numbers, or in a word that changes in the question and in the answer.
    """
    prompts = [compared.prompts.row(row) for row in (left, right)]
    answers = [compared.answers.row(row) for row in (left, right)]
    if overlap(*answers) < NEAR_ANSWER:
        return False
    if any(numbers_in(compared, a) != numbers_in(compared, b) for a, b in (prompts, answers)):
        return False
    asked, said = ({*pair[0]} ^ {*pair[1]} for pair in (prompts, answers))
    return not any(compared.words[word] not in FILLERS for word in asked & said)


def overlap(left: Sequence[int], right: Sequence[int]) -> float:
    """Jaccard similarity of two sets of words; two texts without words are the same."""
    both = {*left} | {*right}
    return len({*left} & {*right}) / len(both) if both else 1.0


def numbers_in(compared: Compared, ids: Sequence[int]) -> list[str]:
    return [word for i in ids if any(map(str.isdigit, word := compared.words[i]))]


def contradictions(compared: Compared, table: Table) -> Pairs:
    """Pairs of training rows that ask the same and answer differently."""
    number = compared.num_train
    asked = equal_prompts(compared.prompts, table)[:number]
    prompted = np.flatnonzero(compared.prompts.counts[:number] > 0)
    unique = np.intersect1d(np.unique(asked), prompted)
    found, _ = similar_pairs(signatures(compared.prompts), unique, NEAR_PROMPT)
    near = [(int(a), int(b)) for a, b in found if same_question(compared, int(a), int(b))
            and table.systems[a] == table.systems[b]]  # fmt: skip
    questions = clusters_of(number, np.array([*near, *equal_links(asked, prompted)], dtype=np.int64).reshape(-1, 2))
    return different_answers(compared, table, questions)


def equal_prompts(prompts: Words, table: Table) -> NDArray[np.int64]:
    first: dict[tuple[bytes, str], int] = {}
    contents = (prompts.ids[a:b].tobytes() for a, b in zip(prompts.starts[:-1], prompts.starts[1:], strict=True))
    keys = ((content, system) for content, system in zip(contents, table.systems, strict=True))
    return np.array([first.setdefault(key, row) for row, key in enumerate(keys)], dtype=np.int64)


def equal_links(keys: NDArray[np.int64], rows: NDArray[np.int64]) -> Pairs:
    rows = rows[keys[rows] != rows]
    return np.column_stack([keys[rows], rows])


def different_answers(compared: Compared, table: Table, questions: NDArray[np.int64]) -> Pairs:
    """Each row with the first of its question whose answer differs from it."""
    kept: defaultdict[int, list[int]] = defaultdict(list)
    pairs = []
    for row in np.flatnonzero(np.bincount(questions, minlength=len(questions))[questions] > 1).tolist():
        others = kept[int(questions[row])]
        answer = compared.answers.row(row)
        different = [other for other in others if not same_answer(compared, table, other, row, answer)]
        if different:
            pairs.append((different[0], row))
        if len(different) == len(others) and len(others) < 8:
            others.append(row)
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def same_answer(compared: Compared, table: Table, left: int, right: int, answer: Sequence[int]) -> bool:
    if not answer or not compared.answers.counts[left]:
        return table.answers[left].strip() == table.answers[right].strip()
    return overlap(compared.answers.row(left), answer) >= NEAR_ANSWER


def same_question(compared: Compared, left: int, right: int) -> bool:
    """Whether two similar prompts differ only in fillers, a misspelling, or a word more or less in many.

    Another number, or another word in the same place, makes another question: data from a pattern are full of those.
    """
    words = compared.words
    one, two = ([i for i in compared.prompts.row(row) if words[i] not in FILLERS] for row in (left, right))
    changes = Levenshtein.editops(one, two)
    allowed = min(len(one), len(two)) // WORDS_A_CHANGE
    for change in changes:
        if change.tag == "replace":
            if not is_misspelling(compared, one[change.src_pos], two[change.dest_pos]):
                return False
        else:
            word = words[one[change.src_pos] if change.tag == "delete" else two[change.dest_pos]]
            allowed -= 1 + 99 * any(map(str.isdigit, word))
    return allowed >= 0


def is_misspelling(compared: Compared, left: int, right: int) -> bool:
    """One of two long words is found nowhere else and is a slip of the pen away from the other."""
    one, two = compared.words[left], compared.words[right]
    if not (one.isalpha() and two.isalpha()) or min(len(one), len(two)) < 4:
        return False
    rare, common = sorted((int(compared.frequency[left]), int(compared.frequency[right])))
    return rare == 1 and common > 1 and Levenshtein.distance(one, two, score_cutoff=2) <= 2


def leaks(compared: Compared, table: Table) -> Pairs:
    """Pairs (training row, test row) where the test's prompt stands in the training row, or nearly so."""
    number, total = compared.num_train, len(compared.prompts)
    tests = np.arange(number, total)
    found = {(a, b) for a, b in equal_links(equal_prompts(compared.prompts, table), tests) if a < number}
    keys = np.unique(equal_prompts(compared.prompts, table))
    near, likeness = similar_pairs(signatures(compared.prompts), keys, ALIKE)
    across = (near[:, 0] < number) & (near[:, 1] >= number)
    found |= {(a, b) for (a, b), like in zip(near[across].tolist(), likeness[across], strict=True)
              if is_near_prompt(compared, a, b, like)}  # fmt: skip
    found |= set(contained(compared))
    first: dict[int, int] = {}
    for train_row, test_row in sorted(found):
        first.setdefault(int(test_row), int(train_row))
    return np.array([(train, test) for test, train in sorted(first.items())], dtype=np.int64).reshape(-1, 2)


def is_near_prompt(compared: Compared, left: int, right: int, like: float) -> bool:
    one, two = compared.prompts.row(left), compared.prompts.row(right)
    if numbers_in(compared, one) != numbers_in(compared, two):
        return False
    return like >= NEAR_LEAK or overlap(one, two) >= ALIKE_WORDS or same_question(compared, left, right)


def contained(compared: Compared) -> list[tuple[int, int]]:
    """(training row, test row) where at least LEAK_CONTAINED of the test prompt's 8-word runs stand in the training row.

    Runs that many rows have belong to a pattern, not to a question, and do not count.
    """
    number, prompts = compared.num_train, compared.prompts
    runs, starts = shingles(prompts, number, len(prompts), LEAK_WORDS, whole=True)
    asked = np.unique(runs)
    if not len(asked):
        return []
    hits_rows, hits = [], []
    for first, last in compared.rows.chunks():
        last = min(last, number)
        if first >= last:
            break
        here, begins = shingles(compared.rows, first, last, LEAK_WORDS, whole=True)
        rows = np.repeat(np.arange(first, last), np.diff(begins))
        places = np.minimum(np.searchsorted(asked, here), len(asked) - 1)
        hit = asked[places] == here
        pairs = np.unique(np.column_stack([rows[hit], places[hit]]), axis=0)
        hits_rows.append(pairs[:, 0])
        hits.append(pairs[:, 1])
    return most_contained(np.searchsorted(asked, runs), starts, np.concatenate(hits_rows), np.concatenate(hits), number)


def most_contained(
    runs: NDArray[np.int64], starts: NDArray[np.int64], rows: NDArray[np.int64], hits: NDArray[np.int64], number: int
) -> list[tuple[int, int]]:
    """For each test row the training row that holds most of its runs, where that is enough."""
    common = np.bincount(hits, minlength=runs.max() + 1) > max(10, number // 500)
    holders: defaultdict[int, list[int]] = defaultdict(list)
    for row, hit in zip(rows.tolist(), hits.tolist(), strict=True):
        if not common[hit]:
            holders[hit].append(row)
    found = []
    for test in range(len(starts) - 1):
        own = set(runs[starts[test] : starts[test + 1]].tolist())
        held: defaultdict[int, int] = defaultdict(int)
        for run in own:  # of common runs no holder was noted
            for row in holders[run]:
                held[row] += 1
        best = max(held, key=lambda row: (held[row], -row), default=None)
        if best is not None and held[best] >= LEAK_CONTAINED * len(own):
            found.append((best, number + test))
    return found
