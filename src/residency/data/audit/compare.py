"""Rows compared with rows: repeated, nearly repeated, asking the same, or standing in the test as well."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from residency.data.audit.questions import (
    SHORT_WORDS,
    Questions,
    equal_questions,
    is_misspelling,
    may_ask_same,
    read_questions,
    same_question,
    slips,
)
from residency.data.audit.similar import Alike, Pairs, clusters_of, signatures, similar_pairs
from residency.data.audit.table import Table
from residency.data.audit.words import (
    NO_WORD,
    Vocabulary,
    Words,
    distinct,
    is_figure,
    read_words,
    shared_words,
    shingles,
)

NEAR_ROW = 0.6
"""Jaccard similarity of two rows that are nearly the same. At 0.8 a third of those in short rows is missed."""
ALIKE, ALIKE_WORDS = 0.4, 0.85
"""Two texts less similar than NEAR_ROW are still copies where they share nearly all words and these runs of words."""
NEAR_PROMPT = 0.5
NEAR_ANSWER = 0.5
NEAR_LEAK = 0.7
SLIPPED = 0.0
LEAK_WORDS = 8
LEAK_WHOLE, LEAK_CONTAINED = 0.9, 0.6
FEWEST_LEAK_WORDS = 3
FILLERS = frozenset(
    {
        "a", "an", "the", "please", "kindly", "hi", "hey", "hello", "could", "would", "can", "will", "you", "i",
        "me", "my", "we", "us", "just", "so", "well", "ok", "okay", "thanks", "thank", "is", "are", "was", "were",
        "do", "does", "did", "be", "to", "of", "for", "tell", "say", "explain", "know", "want", "like", "need",
        "question", "answer", "now", "then", "that", "this",
    }
)  # fmt: skip
"""English words that come and go without another meaning. Other languages go without such a list."""


@dataclass(frozen=True, slots=True)
class Compared:
    """The rows as word ids, and what they share."""

    table: Table
    questions: Questions
    words: list[str]
    """By id."""
    figures: frozenset[int]
    """The ids of numbers and signs."""
    prompts: Words
    answers: Words
    keys: NDArray[np.int64]
    """By row, the first row that is the same but for case and punctuation."""
    prompt_keys: NDArray[np.int64]
    """By row, the first row that asks the same."""
    bags: NDArray[np.int64]
    """By row, the first row with the same words in prompt and answer, in whatever order and number."""
    near_rows: Alike
    near_prompts: Alike
    same_asked: NDArray[np.bool_]
    """By pair of near_prompts, whether both ask the same,"""
    like_asked: NDArray[np.bool_]
    """and whether they do or nearly do."""
    num_train: int
    """The rows before this one are for training, those from it on are the test's."""


def compare_rows(table: Table, num_train: int) -> Compared:
    vocabulary = Vocabulary()
    prompts, answers = read_words(table.prompts, vocabulary), read_words(table.answers, vocabulary)
    questions = read_questions(table.prompts, table.systems, prompts, vocabulary)
    keys, prompt_keys = equal_rows(prompts, answers, table), equal_questions(questions)
    asked = np.intersect1d(np.unique(prompt_keys), np.flatnonzero(prompts.counts))
    parts = (prompts.part(first, last) for first, last in prompts.chunks())
    near_rows = similar_pairs(signatures(whole_rows(prompts, answers), len(prompts)), np.unique(keys), ALIKE)
    near_prompts = similar_pairs(signatures(parts, len(prompts)), asked, ALIKE)
    figures = frozenset(i for i, word in enumerate(questions.words) if is_figure(word))
    bags = equal_bags(prompts, answers, table)
    near_prompts = with_pairs(near_prompts, slips(questions, asked.tolist()))
    same, like = compare_prompts(questions, near_prompts, figures)
    return Compared(
        table, questions, questions.words, figures, prompts, answers, keys, prompt_keys, bags, near_rows, near_prompts,
        same, like, num_train,
    )  # fmt: skip


def compare_prompts(
    questions: Questions, alike: Alike, figures: frozenset[int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """By pair of similar prompts, whether both ask the same, and whether they do or nearly do.

    Most pairs are told apart by counting words.
    """
    pairs, likeness = alike
    shared, either = shared_words(questions.prompts, pairs)
    same = likeness == SLIPPED
    for pair in np.flatnonzero(~same & may_ask_same(questions, pairs, either - shared)).tolist():
        same[pair] = same_question(questions, *pairs[pair].tolist())
    overlaps = shared / np.maximum(either, 1)
    near = (np.minimum(likeness, overlaps) >= NEAR_LEAK) | (overlaps >= ALIKE_WORDS)
    for pair in np.flatnonzero(near & ~same).tolist():
        one, two = (figures_in(figures, questions.prompts.row(row)) for row in pairs[pair].tolist())
        near[pair] = one == two
    return same, same | near


def with_pairs(alike: Alike, more: Sequence[tuple[int, int]]) -> Alike:
    """`more` are pairs whose runs of words tell nothing: their likeness counts as SLIPPED."""
    if not more:
        return alike
    slipped = set(more)
    others = ~np.array([pair in slipped for pair in map(tuple, alike.pairs.tolist())], dtype=np.bool_)
    pairs = np.concatenate([alike.pairs[others], as_pairs(more)])
    return Alike(pairs, np.concatenate([alike.likeness[others], np.full(len(more), SLIPPED)]))


def whole_rows(prompts: Words, answers: Words) -> Iterator[Words]:
    """Prompt and answer of each row as one, with an id that is no word between them. As parts that go again: all rows
    at once would take as much memory as prompts and answers together."""
    for first, last in prompts.chunks():
        asked, said = prompts.part(first, last), answers.part(first, last)
        starts = asked.starts + said.starts + np.arange(len(asked) + 1)
        ids = np.full(int(starts[-1]), NO_WORD, dtype=np.int32)
        for part, begins in ((asked, starts[:-1]), (said, starts[:-1] + asked.counts + 1)):
            ids[np.arange(len(part.ids)) + np.repeat(begins - part.starts[:-1], part.counts)] = part.ids
        yield Words(ids, starts)


def asked_or_said(prompts: Words, answers: Words) -> Iterator[Words]:
    """The prompt of each row, or where there is none the answer, in parts."""
    for first, last in prompts.chunks():
        asked, said = prompts.part(first, last), answers.part(first, last)
        if asked.counts.all():
            yield asked
            continue
        texts = [asked.row(row) or said.row(row) for row in range(len(asked))]
        yield Words(np.array([i for text in texts for i in text], np.int32), np.cumsum([0, *map(len, texts)]))


def equal_rows(prompts: Words, answers: Words, table: Table) -> NDArray[np.int64]:
    """Rows of the same words in the same order (and system text); those without a word are compared as they stand.

    Here and below a text is known by a hash of 64 bits: among a million the chance of a wrong match is 1 in 30 million.
    """
    first: dict[int, int] = {}
    keys = np.empty(len(prompts), dtype=np.int64)
    for row, system in enumerate(table.systems):
        content: tuple[object, ...] = tuple(
            part.ids[part.starts[row] : part.starts[row + 1]].tobytes() for part in (prompts, answers)
        )
        if not prompts.counts[row] + answers.counts[row]:
            content += (table.prompts[row], table.answers[row])
        keys[row] = first.setdefault(hash((content, system)), row)
    return keys


def equal_bags(prompts: Words, answers: Words, table: Table) -> NDArray[np.int64]:
    """In a row of a few words one that has moved changes most of the runs, which similar_pairs goes by."""
    first: dict[int, int] = {}
    bags = np.empty(len(prompts), dtype=np.int64)
    sides = zip(bags_of(prompts), bags_of(answers), strict=True)
    for row, ((asked, said), system) in enumerate(zip(sides, table.systems, strict=True)):
        bags[row] = first.setdefault(hash((asked, said, system)), row) if asked and said else row
    return bags


def bags_of(words: Words) -> Iterator[bytes]:
    """By row its words in the order of their ids, each once."""
    for first, last in words.chunks():
        part = words.part(first, last)
        size = int(part.ids.max(initial=0)) + 1
        codes = distinct(np.repeat(np.arange(len(part)), part.counts) * size + part.ids)
        ids = (codes % size).astype(np.int32)
        starts = np.searchsorted(codes, np.arange(len(part) + 1) * size)
        for row in range(len(part)):
            yield ids[starts[row] : starts[row + 1]].tobytes()


def near_clusters(compared: Compared) -> NDArray[np.int64]:
    """By training row, the first row of its cluster of exact and near copies."""
    number, keys = compared.num_train, compared.keys[: compared.num_train]
    near = copies(compared, compared.near_rows.pairs[:, 1] < number)
    same = [equal_links(each[:number], np.arange(number)) for each in (keys, compared.bags)]
    return clusters_of(number, np.concatenate([near, *same]))


def copies(compared: Compared, chosen: NDArray[np.bool_]) -> Pairs:
    """Those of the chosen pairs of similar rows that say the same."""
    for words, least in ((compared.prompts, NEAR_PROMPT), (compared.answers, NEAR_ANSWER)):
        shared, either = shared_words(words, compared.near_rows.pairs[chosen])
        chosen = chosen.copy()
        chosen[chosen] = shared >= least * either
    alike = compared.near_rows.part(chosen)
    same = [is_near_copy(compared, a, b, like) for a, b, like in alike.each()]
    return alike.pairs[np.array(same, dtype=np.bool_)]


def split_groups(compared: Compared, clusters: NDArray[np.int64]) -> NDArray[np.int64]:
    """By training row, the first row that has to stay on its side of a split: near copies, and rows that ask the same,
    whatever they answer."""
    number = compared.num_train
    telling = np.flatnonzero(compared.prompts.counts[:number])
    asked = compared.near_prompts.pairs[compared.like_asked]
    links = [
        asked[asked[:, 1] < number],
        equal_links(compared.prompt_keys, telling),
        equal_links(clusters, np.arange(number)),
    ]
    return clusters_of(number, np.concatenate(links))


def as_pairs(pairs: Sequence[tuple[int, int]]) -> Pairs:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def is_near_copy(compared: Compared, left: int, right: int, like: float) -> bool:
    """Whether two similar rows say the same, rather than being two rows made from one pattern.

    Rows of one pattern differ in what fills it: in figures, in a word that changes in both question and answer, or in
    one word of a short question or answer.
    Texts without words, as an emoji, are compared as they stand.
    """
    prompts = [compared.prompts.row(row) for row in (left, right)]
    answers = [compared.answers.row(row) for row in (left, right)]
    if like < NEAR_ROW and overlap(prompts[0] + answers[0], prompts[1] + answers[1]) < ALIKE_WORDS:
        return False
    if overlap(*answers) < NEAR_ANSWER or overlap(*prompts) < NEAR_PROMPT:
        return False
    if any(figures_in(compared.figures, a) != figures_in(compared.figures, b) for a, b in (prompts, answers)):
        return False
    for (one, two), texts in ((prompts, compared.table.prompts), (answers, compared.table.answers)):
        if not one and not two and texts[left].strip() != texts[right].strip():
            return False
    asked, said = ({*pair[0]} ^ {*pair[1]} for pair in (prompts, answers))
    if any(compared.words[word] not in FILLERS for word in asked & said):
        return False
    for one, two in (prompts, answers):
        if min(len(one), len(two)) <= SHORT_WORDS and other_words(compared, one, two):
            return False
    return True


def other_words(compared: Compared, left: Sequence[int], right: Sequence[int]) -> bool:
    """Whether each of two texts has a word that tells something and that the other does not have, slips aside."""
    one, two = (
        [word for word in {*a} - {*b} if compared.words[word] not in FILLERS] for a, b in ((left, right), (right, left))
    )
    slipped = len(one) == len(two) == 1 and is_misspelling(compared.questions, one[0], two[0])
    return bool(one and two) and not slipped


def overlap(left: Sequence[int], right: Sequence[int]) -> float:
    """Jaccard similarity of two sets of words; two texts without words are the same."""
    both = {*left} | {*right}
    return len({*left} & {*right}) / len(both) if both else 1.0


def figures_in(figures: frozenset[int], ids: Sequence[int]) -> list[int]:
    return [i for i in ids if i in figures]


def equal_links(keys: NDArray[np.int64], rows: NDArray[np.int64]) -> Pairs:
    """Each of `rows` with the first that equals it."""
    rows = rows[keys[rows] != rows]
    return np.column_stack([keys[rows], rows])


def same_answer(compared: Compared, left: int, right: int) -> bool:
    one, two = compared.answers.row(left), compared.answers.row(right)
    if not one or not two:
        return compared.table.answers[left].strip() == compared.table.answers[right].strip()
    return overlap(one, two) >= NEAR_ANSWER


def leaks(compared: Compared) -> Pairs:
    """Each test row (second) whose prompt stands in a training row (first), whole or nearly so."""
    number, keys = compared.num_train, compared.prompt_keys
    found = contained(compared)
    asked, rows = compared.near_prompts.pairs, compared.near_rows.pairs
    near = np.concatenate([asked[compared.like_asked & across(asked, number)], copies(compared, across(rows, number))])
    found += [(a, b) for a, b in near.tolist() if gives_away(compared, a, b)]
    found += [(int(compared.bags[b]), b) for b in range(number, len(keys)) if compared.bags[b] < number]
    of_key: dict[int, int] = {}
    for train, test in sorted(found):
        of_key.setdefault(int(keys[test]), train)
    pairs = []
    for test in range(number, len(keys)):
        train = int(keys[test])
        train = train if train < number else of_key.get(train, number)
        pairs += [(train, test)] if train < number else []
    return as_pairs(pairs)


def across(pairs: Pairs, number: int) -> NDArray[np.bool_]:
    """Which pairs are of a training row and a test row."""
    return (pairs[:, 0] < number) & (pairs[:, 1] >= number)


def gives_away(compared: Compared, train: int, test: int) -> bool:
    """Whether a training row that resembles a test row is of use for it, rather than another task in like words: one of
    the two has no telling word in its question that the other lacks, or none in its answer."""
    return any(
        not other_words(compared, part.row(train), part.row(test)) for part in (compared.prompts, compared.answers)
    )


def contained(compared: Compared) -> list[tuple[int, int]]:
    """(training row, test row) where the test prompt's runs of words stand in the training row.

    Of a long prompt LEAK_WHOLE of the runs are enough, and LEAK_CONTAINED where no other task is made of them. A short
    one must stand there whole, before the same answer, for short questions are parts of other questions. Runs that many
    rows have belong to a pattern and do not count.
    """
    number, counts = compared.num_train, compared.prompts.counts
    found = []
    for test, held in held_runs(compared, np.arange(number, len(counts)), LEAK_WORDS):
        hits = Counter(row for rows in held for row in rows)
        row, most = max(hits.items(), key=lambda one: (one[1], -one[0]), default=(0, 0))
        whole, most_of_it = (hits and most >= share * len(held) for share in (LEAK_WHOLE, LEAK_CONTAINED))
        if whole or (most_of_it and gives_away(compared, row, test)):
            found.append((row, test))
    for size in range(FEWEST_LEAK_WORDS, LEAK_WORDS):
        for test, (rows,) in held_runs(compared, number + np.flatnonzero(counts[number:] == size), size):
            found += [(row, test) for row in rows if same_answer(compared, row, test)][:1]
    return found


def held_runs(compared: Compared, tests: NDArray[np.int64], size: int) -> Iterator[tuple[int, list[list[int]]]]:
    """Each test row, and for each of the different runs of `size` words in its prompt the training rows that hold it,
    or none where many do."""
    number = compared.num_train
    runs, starts = shingles(compared.prompts.rows(tests), size, whole=True)
    asked, runs_of = np.unique(runs, return_inverse=True)
    rows, hits = holders_of(asked, compared, size)
    common = np.bincount(hits, minlength=len(asked)) > max(10, number // 500)
    holders: defaultdict[int, list[int]] = defaultdict(list)
    for row, hit in zip(rows.tolist(), hits.tolist(), strict=True):
        if not common[hit]:
            holders[hit].append(row)
    for test, (start, end) in zip(tests.tolist(), pairwise(starts.tolist()), strict=True):
        yield test, [holders[run] for run in dict.fromkeys(runs_of[start:end].tolist())]


def holders_of(asked: NDArray[np.uint64], compared: Compared, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(training row, index into `asked`) for each of the runs `asked` that stands in a training row's prompt.

    In an answer it gives nothing away: what was one speaker's answer may be the other's question. Plain text is read as
    it stands.
    """
    prompts, answers = (part.part(0, compared.num_train) for part in (compared.prompts, compared.answers))
    found = [np.zeros(0, dtype=np.int64)]
    first = 0
    for part in asked_or_said(prompts, answers) if len(asked) else ():
        runs, starts = shingles(part, size, whole=True)
        rows = np.repeat(np.arange(first, first + len(part)), np.diff(starts))
        places = np.minimum(np.searchsorted(asked, runs), len(asked) - 1)
        hit = asked[places] == runs
        found.append(distinct(rows[hit] * len(asked) + places[hit]))
        first += len(part)
    codes = np.concatenate(found)
    return codes // max(1, len(asked)), codes % max(1, len(asked))
