"""Rows compared with rows: repeated, nearly repeated, contradicting each other, or standing in the test as well."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from residency.data.audit.similar import Alike, Pairs, clusters_of, signatures, similar_pairs
from residency.data.audit.table import Table
from residency.data.audit.words import CHUNK_ROWS, Vocabulary, Words, read_words, row_frequency, shingles

NEAR_ROW = 0.6
"""Jaccard similarity of two rows that are nearly the same. At 0.8 a third of those in short rows is missed."""
ALIKE, ALIKE_WORDS = 0.4, 0.85
"""Two texts less similar than NEAR_ROW are still copies where they share nearly all words and these runs of words."""
NEAR_PROMPT = 0.5
NEAR_ANSWER = 0.5
NEAR_LEAK = 0.7
LEAK_WORDS = 8
LEAK_CONTAINED = 0.6
SHORT_LEAK_WORDS = 4
FEWEST_TELLING = 2
"""With fewer words that are no fillers, two questions are the same only where all words are."""
WORDS_A_CHANGE = 15
"""One word may be added or left out for so many, and the question is still the same."""

FILLERS = frozenset(
    {
        "a", "an", "the", "please", "kindly", "hi", "hey", "hello", "could", "would", "can", "will", "you", "i",
        "me", "my", "we", "us", "just", "so", "well", "ok", "okay", "thanks", "thank", "is", "are", "was", "were",
        "do", "does", "did", "be", "to", "of", "for", "tell", "say", "explain", "know", "want", "like", "need",
        "question", "answer", "now", "then", "that", "this",
    }
)  # fmt: skip
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
    """By row, the first row that is the same but for case and punctuation."""
    prompt_keys: NDArray[np.int64]
    """By row, the first row whose prompt is the same in that way."""
    near_rows: Alike
    near_prompts: Alike
    num_train: int
    """The rows before this one are for training, those from it on are the test's."""


def compare_rows(table: Table, num_train: int) -> Compared:
    vocabulary = Vocabulary()
    prompts, answers = read_words(table.prompts, vocabulary), read_words(table.answers, vocabulary)
    rows = joined(prompts, answers, len(vocabulary))
    keys, prompt_keys = equal_rows(rows, table), equal_prompts(prompts, table, ids_of(FILLERS, vocabulary))
    asked = np.intersect1d(np.unique(prompt_keys), np.flatnonzero(prompts.counts))
    return Compared(
        vocabulary.words(), row_frequency(prompts, len(vocabulary)), prompts, answers, rows, keys, prompt_keys,
        similar_pairs(signatures(rows), np.unique(keys), ALIKE),
        similar_pairs(signatures(prompts), asked, ALIKE), num_train,
    )  # fmt: skip


def ids_of(words: Iterable[str], vocabulary: Vocabulary) -> NDArray[np.int64]:
    return np.array([vocabulary.ids[word] for word in words if word in vocabulary.ids], dtype=np.int64)


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


def equal_rows(words: Words, table: Table) -> NDArray[np.int64]:
    """Rows of the same words in the same order (and system text); those without a word are compared as they stand."""
    first: dict[tuple[bytes, str], int] = {}
    keys = np.empty(len(words), dtype=np.int64)
    for row in range(len(words)):
        content = words.ids[words.starts[row] : words.starts[row + 1]].tobytes()
        if words.counts[row] <= 1:
            content += f"{table.prompts[row]}\0{table.answers[row]}".encode(errors="replace")
        keys[row] = first.setdefault((content, table.systems[row]), row)
    return keys


def equal_prompts(prompts: Words, table: Table, fillers: NDArray[np.int64]) -> NDArray[np.int64]:
    """By row, the first row with the same question but for fillers, unless it has little else."""
    content = ~np.isin(prompts.ids, fillers)
    telling = np.add.reduceat(np.append(content, False), prompts.starts[:-1]) * (prompts.counts > 0)
    first: dict[tuple[bytes, str], int] = {}
    keys = np.empty(len(prompts), dtype=np.int64)
    for row, (start, end) in enumerate(pairwise(prompts.starts.tolist())):
        ids = prompts.ids[start:end]
        words = ids[content[start:end]] if telling[row] >= FEWEST_TELLING else ids
        keys[row] = first.setdefault((words.tobytes(), table.systems[row]), row)
    return keys


def near_clusters(compared: Compared) -> NDArray[np.int64]:
    """By training row, the first row of its cluster of exact and near copies."""
    number, keys = compared.num_train, compared.keys[: compared.num_train]
    near = [(a, b) for a, b, like in compared.near_rows.each() if b < number and is_near_copy(compared, a, b, like)]
    exact = equal_links(keys, np.arange(number))
    return clusters_of(number, np.concatenate([as_pairs(near), exact]))


def split_groups(compared: Compared, clusters: NDArray[np.int64]) -> NDArray[np.int64]:
    """By training row, the first row that has to stay on its side of a split: near copies, and rows that ask the same,
    whatever they answer."""
    number = compared.num_train
    asked = [
        (a, b) for a, b, like in compared.near_prompts.each() if b < number and is_near_prompt(compared, a, b, like)
    ]
    telling = np.flatnonzero(compared.prompts.counts[:number])
    links = [as_pairs(asked), equal_links(compared.prompt_keys, telling), equal_links(clusters, np.arange(number))]
    return clusters_of(number, np.concatenate(links))


def as_pairs(pairs: Sequence[tuple[int, int]]) -> Pairs:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def is_near_copy(compared: Compared, left: int, right: int, like: float) -> bool:
    """Whether two similar rows say the same, rather than being two rows made from one pattern.

    Rows of one pattern differ in what fills it: in numbers, or in a word that changes in both question and answer.
    """
    prompts = [compared.prompts.row(row) for row in (left, right)]
    answers = [compared.answers.row(row) for row in (left, right)]
    if like < NEAR_ROW and overlap(prompts[0] + answers[0], prompts[1] + answers[1]) < ALIKE_WORDS:
        return False
    if overlap(*answers) < NEAR_ANSWER or overlap(*prompts) < NEAR_PROMPT:
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
    near = [
        (a, b)
        for a, b, like in compared.near_prompts.each()
        if b < number and like >= NEAR_PROMPT and table.systems[a] == table.systems[b] and same_question(compared, a, b)
    ]
    asked = np.flatnonzero(compared.prompts.counts[:number])
    questions = clusters_of(number, np.concatenate([as_pairs(near), equal_links(compared.prompt_keys, asked)]))
    return different_answers(compared, table, questions)


def equal_links(keys: NDArray[np.int64], rows: NDArray[np.int64]) -> Pairs:
    """Each of `rows` with the first that equals it."""
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
    return as_pairs(pairs)


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
    if min(len(one), len(two)) < FEWEST_TELLING:
        return False
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
    """Each test row (second) whose prompt stands in a training row (first), whole or nearly so."""
    number, keys = compared.num_train, compared.prompt_keys
    found = contained(compared, table)
    for alike, is_near in ((compared.near_prompts, is_near_prompt), (compared.near_rows, is_near_copy)):
        found += [(a, b) for a, b, like in alike.each() if a < number <= b and is_near(compared, a, b, like)]
    of_key: dict[int, int] = {}
    for train, test in sorted(found):
        of_key.setdefault(int(keys[test]), train)
    pairs = []
    for test in range(number, len(keys)):
        train = int(keys[test])
        train = train if train < number else of_key.get(train, number)
        pairs += [(train, test)] if train < number else []
    return as_pairs(pairs)


def is_near_prompt(compared: Compared, left: int, right: int, like: float) -> bool:
    one, two = compared.prompts.row(left), compared.prompts.row(right)
    if numbers_in(compared, one) != numbers_in(compared, two):
        return False
    shared = overlap(one, two)
    return min(like, shared) >= NEAR_LEAK or shared >= ALIKE_WORDS or same_question(compared, left, right)


def contained(compared: Compared, table: Table) -> list[tuple[int, int]]:
    """(training row, test row) where the test prompt's runs of words stand in the training row.

    Of a long prompt LEAK_CONTAINED of the runs are enough. A short one must stand there whole, before the same answer,
    for short questions are parts of other questions. Runs that many rows have belong to a pattern and do not count.
    """
    counts = compared.prompts.counts
    found = most_contained(compared, LEAK_WORDS)
    short = most_contained(compared, SHORT_LEAK_WORDS)
    return [(a, b) for a, b, share in found if share >= LEAK_CONTAINED] + [
        (a, b) for a, b, share in short
        if share == 1 and counts[b] < LEAK_WORDS and same_answer(compared, table, a, b, compared.answers.row(b))
    ]  # fmt: skip


def most_contained(compared: Compared, size: int) -> list[tuple[int, int, float]]:
    """(training row, test row, share) for each test row: which training row holds most of its prompt's runs."""
    number, prompts = compared.num_train, compared.prompts
    runs, starts = shingles(prompts, number, len(prompts), size, whole=True)
    asked, runs_of = np.unique(runs, return_inverse=True)
    rows, hits = holders_of(asked, compared.rows, number, size)
    common = np.bincount(hits, minlength=len(asked)) > max(10, number // 500)
    holders: defaultdict[int, list[int]] = defaultdict(list)
    for row, hit in zip(rows.tolist(), hits.tolist(), strict=True):
        if not common[hit]:
            holders[hit].append(row)
    found = []
    for test in range(len(starts) - 1):
        own = set(runs_of[starts[test] : starts[test + 1]].tolist())
        held = Counter(row for run in own for row in holders[run])
        if held:
            row, most = max(held.items(), key=lambda one: (one[1], -one[0]))
            found.append((row, number + test, most / len(own)))
    return found


def holders_of(
    asked: NDArray[np.uint64], words: Words, number: int, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(row, index into `asked`) for each of the runs `asked` that stands in one of the first `number` rows."""
    found = [np.zeros((0, 2), dtype=np.int64)]
    for first in range(0, number if len(asked) else 0, CHUNK_ROWS):
        last = min(first + CHUNK_ROWS, number)
        runs, starts = shingles(words, first, last, size, whole=True)
        rows = np.repeat(np.arange(first, last), np.diff(starts))
        places = np.minimum(np.searchsorted(asked, runs), len(asked) - 1)
        hit = asked[places] == runs
        codes = np.unique(rows[hit] * len(asked) + places[hit])
        found.append(np.column_stack([codes // len(asked), codes % len(asked)]))
    both = np.concatenate(found)
    return both[:, 0], both[:, 1]
