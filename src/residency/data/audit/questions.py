"""Whether two prompts ask the same: but for courtesies, articles, a slip of the pen, or one word more in many."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import OSA, Levenshtein

from residency.data.audit.words import Vocabulary, Words, is_figure, row_frequency, words_of

ARTICLES = ("a", "an", "the")
COURTESY = (
    r"(?:(?:please|kindly|hi|hey|hello|good (?:morning|day|evening)|thanks|thank you|ok|okay|well|so)\b"
    r"|(?:can|could|would|will) you (?:please |kindly )?(?=(?:tell|explain|say|show|give|help|write|describe|name)\b)"
    r"|(?:tell|explain to) me\b|i(?: would|'d)? (?:want|like|need) to know\b|do you know (?=wh|how)"
    r"|i have a question\b|my question is\b)\W*"
)
"""English words that make no other question of a question. Other languages go without such a list."""
OPENING = re.compile(rf"\W*(?:{COURTESY})+", re.IGNORECASE)
CLOSING = re.compile(rf"\W+(?:{COURTESY})+\Z", re.IGNORECASE)
LETTERS = re.compile(r"\w+")
LAST_COURTEOUS = re.compile(
    r"please|kindly|hi|hey|hello|morning|day|evening|thanks|you|ok|okay|well|so|me|know|question|is", re.IGNORECASE
)
"""The last word of any text that CLOSING finds; most texts end with another."""
LONGEST_COURTESY = 100
CONTRACTED: dict[tuple[str, ...], tuple[str, ...]] = {
    **{(word, "s"): (word, "is") for word in ("what", "who", "where", "when", "how", "it", "that", "there", "here")},
    **{(f"{word}s",): (word, "is") for word in ("what", "who", "where", "how", "that")},
    **{(f"{word}n", "t"): (word, "not") for word in (
        "is", "are", "was", "were", "do", "does", "did", "has", "have", "had", "could", "would", "should", "must")},
    ("can", "t"): ("can", "not"), ("cannot",): ("can", "not"), ("won", "t"): ("will", "not"), ("i", "m"): ("i", "am"),
    **{(word, "re"): (word, "are") for word in ("you", "we", "they")},
    **{(word, "ll"): (word, "will") for word in ("i", "you", "he", "she", "it", "we", "they")},
    **{(word, "ve"): (word, "have") for word in ("i", "you", "we", "they")},
}  # fmt: skip
"""English words that are written in two ways, as words.py reads them: `what's`, `whats`, `what is`."""
FEWEST_TELLING = 2
"""With fewer words that are no courtesies, two questions are the same only where all words are."""
WORDS_A_CHANGE = 15
"""One word may be added or left out for so many, and the question is still the same."""
MOST_SPELT_OUT = 16
"""Words by which two prompts may differ where only one of them has contractions."""
SHORT_WORDS = 12
"""In fewer words a slip of the pen changes so many of the runs of three that the prompts no longer look similar."""
SHORTEST_SLIP = 4
MOST_SLIPS = 8
MOST_MISSPELT = 3
"""In one prompt."""
MOST_ALIKE_SLIPS, SLIP_SHARE, EXCHANGED_SHARE = 3, 0.001, 0.01
"""The same slip may be made again, where the word itself is found a thousand times as often, or where two of its
letters are exchanged a hundred times: few such pairs are words both."""


@dataclass(frozen=True, slots=True)
class Questions:
    """The prompts of all rows."""

    systems: Sequence[str]
    prompts: Words
    words: list[str]
    """By id."""
    frequency: NDArray[np.int64]
    """Prompts that hold the word, by id."""
    articles: frozenset[int]
    """Their ids."""
    opening: NDArray[np.int32]
    closing: NDArray[np.int32]
    """By row, how many words of courtesy open and close the prompt."""
    contracted: dict[tuple[int, ...], tuple[int, ...]]
    """CONTRACTED by ids."""
    contracting: frozenset[int]
    """The last words of its keys."""


def read_questions(texts: Sequence[str], systems: Sequence[str], prompts: Words, vocabulary: Vocabulary) -> Questions:
    """`prompts` are the words of `texts`, with their ids in `vocabulary`."""
    ids = vocabulary.ids
    contracted = {
        tuple(map(ids.__getitem__, short)): tuple(map(ids.__getitem__, whole))
        for short, whole in CONTRACTED.items() if {*short, *whole} <= ids.keys()
    }  # fmt: skip
    opening = (courtesies(OPENING.match(text, 0, LONGEST_COURTESY)) for text in texts)
    closing = (courtesies(closing_courtesy(text)) for text in texts)
    return Questions(
        systems, prompts, vocabulary.words(), row_frequency(prompts, len(vocabulary)),
        frozenset(ids[word] for word in ARTICLES if word in ids),
        np.fromiter(opening, np.int32, len(texts)), np.fromiter(closing, np.int32, len(texts)),
        contracted, frozenset(short[-1] for short in contracted),
    )  # fmt: skip


def closing_courtesy(text: str) -> re.Match[str] | None:
    tail = max(0, len(text) - LONGEST_COURTESY)
    last = LETTERS.findall(text, tail)[-1:]
    return CLOSING.search(text, tail) if last and LAST_COURTEOUS.fullmatch(last[0]) else None


def courtesies(found: re.Match[str] | None) -> int:
    return len(words_of(found[0])) if found else 0


def asking(questions: Questions, row: int) -> list[int]:
    """The words that ask: without courtesies and articles, unless there is little else."""
    ids = questions.prompts.row(row)
    last = len(ids) - int(questions.closing[row])
    telling = [i for i in ids[questions.opening[row] : last] if i not in questions.articles]
    return spelt_out(questions, telling if len(telling) >= FEWEST_TELLING else ids)


def spelt_out(questions: Questions, ids: list[int]) -> list[int]:
    if questions.contracting.isdisjoint(ids):
        return ids
    found: list[int] = []
    for word in ids:
        if word not in questions.contracting:
            found.append(word)
        elif found and (whole := questions.contracted.get((found[-1], word))):
            found[-1:] = whole
        else:
            found += questions.contracted.get((word,), (word,))
    return found


def equal_questions(questions: Questions) -> NDArray[np.int64]:
    """By row, the first row with the same question and system text."""
    first: dict[int, int] = {}
    keys = np.empty(len(questions.prompts), dtype=np.int64)
    for row, (asked, system) in enumerate(zip(all_asking(questions), questions.systems, strict=True)):
        keys[row] = first.setdefault(hash((asked, system)), row)
    return keys


def all_asking(questions: Questions) -> Iterator[bytes]:
    """What `asking` gives for each prompt, as bytes. Where nothing is contracted, articles and courtesies are taken out
    of many prompts at once."""
    prompts, opening, closing = questions.prompts, questions.opening, questions.closing
    articles, contracting = (np.array(sorted(ids), np.int32) for ids in (questions.articles, questions.contracting))
    for first, last in prompts.chunks():
        part = prompts.part(first, last)
        row = np.repeat(np.arange(len(part)), part.counts)
        place = np.arange(len(part.ids)) - part.starts[row]
        telling = (place >= opening[first:last][row]) & (place < (part.counts - closing[first:last])[row])
        telling &= ~np.isin(part.ids, articles)
        counts = np.bincount(row[telling], minlength=len(part))
        plain = counts >= FEWEST_TELLING
        plain[row[np.isin(part.ids, contracting)]] = False
        ids, starts = part.ids[telling], np.concatenate([[0], np.cumsum(counts)])
        for number in range(len(part)):
            if plain[number]:
                yield ids[starts[number] : starts[number + 1]].tobytes()
            else:
                yield np.array(asking(questions, first + number), np.int32).tobytes()


def may_ask_same(questions: Questions, pairs: NDArray[np.int64], different: NDArray[np.int64]) -> NDArray[np.bool_]:
    """A bound on same_question for many pairs at once: by how many words, each counted once, may be `different`."""
    allowed = questions.prompts.counts[pairs].min(axis=1) // WORDS_A_CHANGE + 2 * MOST_MISSPELT
    aside = (questions.opening + questions.closing)[pairs].sum(axis=1) + len(ARTICLES) + MOST_SPELT_OUT
    return np.asarray(different <= allowed + aside)


def same_question(questions: Questions, left: int, right: int) -> bool:
    """Whether two similar prompts differ only in courtesies, a misspelling, or a word more or less in many.

    Another figure, or another word in the same place, makes another question: data from a pattern are full of those.
    """
    one, two = asking(questions, left), asking(questions, right)
    if min(len(one), len(two)) < FEWEST_TELLING:
        return False
    allowed = min(len(one), len(two)) // WORDS_A_CHANGE
    if len({*one} ^ {*two}) > allowed + 2 * MOST_MISSPELT:
        return False
    for change in Levenshtein.editops(one, two):
        if change.tag == "replace":
            if not is_misspelling(questions, one[change.src_pos], two[change.dest_pos]):
                return False
        else:
            word = questions.words[one[change.src_pos] if change.tag == "delete" else two[change.dest_pos]]
            allowed -= 1 + 99 * is_figure(word)
    return allowed >= 0


def is_misspelling(questions: Questions, left: int, right: int) -> bool:
    """One of two long words is found nowhere else, or next to nowhere, and is one slip of the pen away from the other,
    which is found more often or has the same letters.

    A slip leaves a letter out, doubles it or exchanges two. With another letter (Iceland, Ireland), or another first
    one (Gambia, Zambia), it may well be another name.
    """
    one, two = questions.words[left], questions.words[right]
    if not (one.isalpha() and two.isalpha()) or min(len(one), len(two)) < SHORTEST_SLIP or one[0] != two[0]:
        return False
    rare, common = sorted((int(questions.frequency[left]), int(questions.frequency[right])))
    same_letters = sorted(one) == sorted(two)
    share = EXCHANGED_SHARE if same_letters else SLIP_SHARE
    return (
        (rare == 1 or (rare <= MOST_ALIKE_SLIPS and rare <= share * common))
        and (same_letters or len(one) != len(two))
        and OSA.distance(one, two, score_cutoff=1) <= 1
        and (common > 1 or (same_letters and len(one) > SHORTEST_SLIP))
    )


def slips(questions: Questions, rows: Iterable[int]) -> list[tuple[int, int]]:
    """Pairs of short prompts that differ in one word which may be a slip of the pen: its first letter is the same.

    Linear: of many prompts that are alike around one place only those are compared that have the same letters there,
    and of those the first MOST_SLIPS. Where a table of words is asked for, one letter more is another word of it.
    """
    may_slip = np.array([len(word) >= SHORTEST_SLIP and word.isalpha() for word in questions.words])
    rare = may_slip & (questions.frequency <= MOST_ALIKE_SLIPS)
    brief = (row for row in rows if questions.prompts.counts[row] <= 2 * SHORT_WORDS)
    short = [(row, words) for row in brief if len(words := asking(questions, row)) <= SHORT_WORDS]
    around: defaultdict[int, list[tuple[int, str]]] = defaultdict(list)
    for row, words in short:
        for place in np.flatnonzero(rare[words]).tolist():
            around[hash(around_word(questions, words, place))].append((row, questions.words[words[place]]))
    by_letters = {key: same_letters(alike) for key, alike in around.items() if len(alike) > MOST_SLIPS}
    pairs = set()
    for row, words in short:
        for place in np.flatnonzero(may_slip[words]).tolist():
            key = hash(around_word(questions, words, place))
            alike = [other for other, _ in around.get(key, ())]
            if key in by_letters:
                alike = by_letters[key].get(letters(questions.words[words[place]]), [])[:MOST_SLIPS]
            pairs |= {(min(row, other), max(row, other)) for other in alike if other != row}
    return sorted(pair for pair in pairs if same_question(questions, *pair))


def same_letters(alike: Iterable[tuple[int, str]]) -> dict[str, list[int]]:
    """The rows by the letters of their words."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for row, word in alike:
        found[letters(word)].append(row)
    return found


def letters(word: str) -> str:
    return "".join(sorted(word))


def around_word(questions: Questions, words: list[int], place: int) -> tuple[object, ...]:
    return *words[:place], questions.words[words[place]][0], *words[place + 1 :]
