"""Whether rows that ask the same answer alike. If not, they contradict each other, or the question is an open one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from residency.data.audit import findings as says
from residency.data.audit.compare import NEAR_PROMPT, SLIPPED, Compared, as_pairs, equal_links, same_answer
from residency.data.audit.findings import Finding
from residency.data.audit.similar import Pairs, clusters_of, groups
from residency.data.audit.table import Table

FEWEST_JUDGED, MOST_JUDGED = 3, 24
"""Rows by which it is judged whether a question is open."""
MOST_ANSWERS = 8
"""To one question, with which each further one is compared."""
LONGEST_REPLY = 5
"""Words."""
YES = frozenset(
    {
        "yes", "yeah", "yep", "yup", "aye", "sure", "surely", "certain", "certainly", "definitely", "absolutely",
        "exactly", "precisely", "indeed", "naturally", "positively", "affirmative", "undoubtedly", "doubtless",
        "indubitably", "unquestionably", "undeniably", "assuredly", "totally", "true", "right", "correct",
    }
)  # fmt: skip
NO = frozenset({"no", "nope", "nah", "never", "not", "negative", "hardly", "doubtful", "false", "wrong", "incorrect"})
BEYOND = frozenset({"no", "without", "beyond"})
"""A doubt."""
BESIDE = frozenset(
    {
        "a", "all", "am", "at", "by", "course", "do", "does", "i", "is", "it", "means", "most", "of", "oh", "quite",
        "so", "that", "very", "way", "well",
    }
)  # fmt: skip
"""What may stand beside them in a reply that says no more."""
GREETING = re.compile(
    r"\W*(?:(?:hi|hey|hello|hiya|howdy|greetings|welcome|good (?:morning|day|afternoon|evening|night)|thanks|thank you"
    r"|goodbye|bye)\b(?: there| again)?\W*)+", re.IGNORECASE,
)  # fmt: skip
"""English, as the words above; other languages go without such lists."""


class Answers(NamedTuple):
    """Training rows that ask the same as another one and answer differently, each behind that one."""

    contradictory: Pairs
    varied: Pairs
    """Those of open questions, which most rows answer in their own way, and where one only says hello."""


def repeated_questions(compared: Compared) -> Answers:
    number, systems = compared.num_train, compared.table.systems
    near = [
        (a, b)
        for (a, b, like), same in zip(compared.near_prompts.each(), compared.same_asked.tolist(), strict=True)
        if same and b < number and systems[a] == systems[b] and (like == SLIPPED or like >= NEAR_PROMPT)
    ]
    asked = np.flatnonzero(compared.prompts.counts[:number])
    questions = clusters_of(number, np.concatenate([as_pairs(near), equal_links(compared.prompt_keys, asked)]))
    repeated = np.flatnonzero(np.bincount(questions, minlength=number)[questions] > 1)
    contradictory: list[tuple[int, int]] = []
    varied: list[tuple[int, int]] = []
    for places in groups(questions[repeated]):
        rows = repeated[places].tolist()
        different = different_answers(compared, rows)
        open_ones = different if is_open(compared, rows) else [pair for pair in different if greets(compared, *pair)]
        varied += open_ones
        contradictory += sorted({*different} - {*open_ones})
    return Answers(as_pairs(sorted(contradictory, key=itemgetter(1))), as_pairs(sorted(varied, key=itemgetter(1))))


def is_open(compared: Compared, rows: Sequence[int]) -> bool:
    """Whether a question has no one answer, as a greeting or the wish for a joke has none: most of the rows that ask it
    answer as no other of them does. Of two answers nobody can say so."""
    if len(rows) < FEWEST_JUDGED:
        return False
    judged = rows[:MOST_JUDGED]
    agreeing: set[int] = set()
    for row, other in combinations(judged, 2):
        if agree(compared, row, other):
            agreeing |= {row, other}
    return 2 * len(agreeing) < len(judged)


def different_answers(compared: Compared, rows: Sequence[int]) -> list[tuple[int, int]]:
    """Of the rows that ask one question those that answer it otherwise than most do, each behind the first of those. Of
    answers as frequent the one given first counts."""
    given: list[list[int]] = []
    for row in rows:
        alike = next((others for others in given if agree(compared, others[0], row)), None)
        if alike:
            alike.append(row)
        elif len(given) < MOST_ANSWERS:
            given.append([row])
    usual = max(given, key=len)
    agreeing = {*usual}
    return [(usual[0], row) for row in rows if row not in agreeing]


def agree(compared: Compared, left: int, right: int) -> bool:
    """Whether two answers are nearly the same, or both say yes and no more, or both no, in whatever words."""
    one, two = bare_reply(compared, left), bare_reply(compared, right)
    return one == two if one and two else same_answer(compared, left, right)


def bare_reply(compared: Compared, row: int) -> str:
    """`yes` or `no` where an answer says nothing else."""
    if compared.answers.counts[row] > LONGEST_REPLY:
        return ""
    said = {compared.words[word] for word in compared.answers.row(row)}
    if not said <= YES | NO | BEYOND | BESIDE | {"doubt"}:
        return ""
    if "doubt" in said:
        return "yes" if said & BEYOND else "no"
    if said & NO:
        return "no"
    return "yes" if said & YES or "course" in said else ""


def greets(compared: Compared, *rows: int) -> bool:
    """Whether one of the answers only says hello or thanks, and so states nothing that another could contradict."""
    return any(GREETING.fullmatch(compared.table.answers[row]) for row in rows)


def answer_findings(table: Table, answers: Answers) -> list[Finding | None]:
    before = {int(row): int(first) for pairs in answers for first, row in pairs}
    return [
        says.of_rows(
            "contradictions", "warning", table, answers.contradictory[:, 1],
            "Another answer than other rows give to the same question: {rows}. The model learns to guess between them; "
            "keep the right one of each pair (`--fix --review` asks for each).",
            other=before.__getitem__,
        ),
        says.of_rows(
            "varied_answers", "note", table, answers.varied[:, 1],
            "Another answer to a question that most rows which ask it answer in their own way: {rows}. That is well "
            "where variety is wanted, as for greetings and jokes; elsewhere the question leaves out what decides it.",
            other=before.__getitem__, costs=False,
        ),
    ]  # fmt: skip
