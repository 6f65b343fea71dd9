"""All checks, in order, over the rows of a run: the page to read first.

    stage 0   what one row shows by itself            schema.py, residue.py
    stage 1   rows compared, seconds on a CPU         compare.py, answers.py, private.py, style.py
    stage 2   what the rows are about                 subjects.py

Every check is linear in the number of rows. A check finds; what may be repaired is proposed by `fix`, and nothing is
changed here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residency.data.audit import findings as says
from residency.data.audit import schema, style
from residency.data.audit.alone import Alone, language_sample, looked_at
from residency.data.audit.answers import answer_findings, repeated_questions
from residency.data.audit.compare import Compared, compare_rows, leaks, near_clusters, split_groups
from residency.data.audit.excerpts import excerpts
from residency.data.audit.findings import SEVERITIES, Finding
from residency.data.audit.private import private_findings
from residency.data.audit.score import points_lost, score
from residency.data.audit.similar import Pairs
from residency.data.audit.subjects import Subjects, check_subjects, read_subjects
from residency.data.audit.table import KTO_MARKS, Table, TableRead, joined_tables
from residency.data.audit.words import row_frequency
from residency.data.messages import Origin
from residency.errors import DataError
from residency.progress import track
from residency.wording import counted

VERSION = 2


@dataclass(frozen=True, slots=True)
class Audit:
    table: Table
    """The training rows."""
    findings: list[Finding]
    """The gravest first."""
    clusters: NDArray[np.int64]
    """By training row: the first row that says the same, or nearly."""
    groups: NDArray[np.int64]
    """By training row: the first row that has to stay on the same side of a split."""
    contradictions: Pairs
    leaks: Pairs
    """(training row, test row); test rows are numbered behind the training rows."""
    test: Table | None = None
    plots: dict[str, Any] = field(default_factory=dict)
    """What the report draws: row lengths in words, counts of labels."""

    @property
    def score(self) -> int:
        return score(self.findings)

    def excerpts(self) -> dict[Origin, str]:
        """What the first rows of each finding say, and the rows that they repeat or contradict."""
        return excerpts(self.findings, [self.table, *([self.test] if self.test else [])])

    def as_record(self) -> dict[str, Any]:
        said = {str(origin): text for origin, text in self.excerpts().items()}
        records = [
            finding.as_record() | {"points": round(points, 2)}
            for finding, points in zip(self.findings, points_lost(self.findings), strict=True)
        ]
        return {
            "version": VERSION, "score": self.score, "findings": records, "said": said, "plots": self.plots,
        }  # fmt: skip


def audit(train: Table, test: Table | None = None) -> Audit:
    """Checks training rows, and whether the test's rows stand among them."""
    number = len(train)
    both = joined_tables(train, test) if test else train
    with track("Checking the rows", 9) as advance, looked_at(train) as look:

        def step(value: Any) -> Any:
            advance()
            return value

        compared = step(compare_rows(both, number))
        clusters = step(near_clusters(compared))
        answers = step(repeated_questions(compared))
        leaked = step(leaks(compared) if test else np.zeros((0, 2), dtype=np.int64))
        alone, languages = step(look())
        topics = step(read_subjects(train))
        found: list[Finding | None] = [
            *duplicate_findings(train, compared, clusters),
            *answer_findings(train, answers),
            leak_finding(both, leaked, number),
            *private_findings(train, alone.private),
            residue_finding(train, alone.residue),
            *step(schema_findings(train, compared)),
            language_finding(train, languages),
            format_finding(train, alone, topics),
            *step(style_findings(train, compared)),
            *step(check_subjects(train, topics, test)),
        ]
    kept = by_gravity(one for one in found if one)
    groups = split_groups(compared, clusters)
    return Audit(train, kept, clusters, groups, answers.contradictory, leaked, test, plots(train, compared))


def by_gravity(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda one: SEVERITIES.index(one.severity))


def with_findings(found: Audit, more: Iterable[Finding | None]) -> Audit:
    return replace(found, findings=by_gravity([*found.findings, *(one for one in more if one)]))


def refuse(found: Audit, *, strict: bool) -> None:
    """Raises DataError with the findings on which nothing should be trained: errors, and warnings if `strict`."""
    grave = [one for one in found.findings if one.severity == "error" or (strict and one.severity == "warning")]
    if grave:
        raise DataError(
            "the data have warnings or errors (strict)" if strict else "the data have errors: do not train on them",
            code="data_findings", param="data.train", problems=[f"{one.check}: {one.message}" for one in grave],
            hint="`residency check` shows the rows, and repairs what can be repaired with --fix",
        )  # fmt: skip


def unusable_finding(read: TableRead) -> Finding | None:
    """The rows that were skipped, because a repair will leave them out."""
    number = len(read.unusable)
    if not number:
        return None
    share = number / (number + len(read.table))
    rows = counted(number, "row")
    return Finding(
        "unusable", "error", f"Rows that cannot be used: {rows} ({share:.1%}). `--fix` leaves them out.",
        list(read.unusable), {"reasons": list(read.unusable.values())[: says.ROWS_RECORDED]}, share,
    )  # fmt: skip


def duplicate_findings(table: Table, compared: Compared, clusters: NDArray[np.int64]) -> list[Finding | None]:
    number = len(table)
    keys = compared.keys[:number]
    exact = np.flatnonzero(keys != np.arange(number))
    near = np.flatnonzero((clusters != np.arange(number)) & (keys == np.arange(number)))
    return [
        says.of_rows(
            "exact_duplicates", "warning", table, exact,
            "Word-for-word copies of an earlier row: {rows}. They count twice in training; `--fix` keeps one of each.",
            other=lambda row: int(keys[row]),
        ),
        says.of_rows(
            "near_duplicates", "warning", table, near,
            "Near copies of an earlier row: {rows}. A split by chance would put copies on both sides; `--fix` keeps "
            "one of each group, and a share in data.eval is held out by group.",
            other=lambda row: int(clusters[row]),
        ),
    ]  # fmt: skip


def leak_finding(table: Table, pairs: Pairs, number: int) -> Finding | None:
    if not len(pairs):
        return None
    share = len(pairs) / (len(table) - number)
    return Finding(
        "leaks", "warning",
        f"Test rows that stand in the training data, whole or nearly so: {counted(len(pairs), 'row')} ({share:.1%} of "
        "the test). The test would reward remembering; take them out of the training data (`--fix`) or out of the "
        "test.",
        table.origins(pairs[:, 0]), {"share": round(share, 6)}, share, table.origins(pairs[:, 1]),
    )  # fmt: skip


def residue_finding(table: Table, pieces: dict[int, str]) -> Finding | None:
    common = ", ".join(f"{piece!r}" for piece, _ in Counter(pieces.values()).most_common(3))
    return says.of_rows(
        "residue", "warning", table, list(pieces),
        f"Pieces of a prompt template ({common}) in {{rows}}. The model's own template comes on top, and it would "
        "learn to write theirs; `--fix` strips them.",
    )  # fmt: skip


def schema_findings(table: Table, compared: Compared) -> list[Finding | None]:
    frequency = row_frequency(compared.answers, len(compared.words))
    answers = compared.answers.part(0, len(table))
    unmarked = schema.without_end_mark(table.answers)
    silent = [row for row, roles in enumerate(table.roles) if roles and not table.prompts[row].strip()]
    stopped, unended = schema.cut_off(table.answers, answers, compared.words, frequency)
    return [
        says.of_rows(
            "cut_off", "warning", table, stopped,
            "Answers that stop in the middle: {rows}. The model learns to stop there too; complete them, or leave "
            "these rows out.",
        ),
        says.of_rows(
            "no_end", "note", table, unended,
            "Answers that do not end like a sentence, as most others do: {rows}. Look whether they were cut off.",
        ),
        says.of_rows(
            "end_marks", "warning", table, unmarked[1] if unmarked else [],
            f"Answers without the mark {unmarked[0] if unmarked else ''!r} that ends the others: {{rows}}. Take it out "
            "everywhere (the chat template ends a turn by itself), or add it here.",
        ),
        says.of_rows(
            "marked_bad", "warning", table, np.flatnonzero(table.marked_bad),
            f"Answers marked as bad ones ({' or '.join(KTO_MARKS)} is false, as KTO has it): {{rows}}. They are "
            "learned like all others; `residency check FILE --fix CLEAN.jsonl --drop marked_bad` leaves them out.",
            costs=False,
        ),
        system_finding(table),
        says.of_rows(
            "empty_prompts", "warning", table, silent,
            "Prompts that say nothing: {rows}. The answer follows from no question; write one, or leave these rows "
            "out.",
        ),
        says.of_rows(
            "roles", "warning", table, [row for row, roles in enumerate(table.roles) if not alternates(roles)],
            "Turns of user and assistant that do not alternate: {rows}. Some chat templates refuse those; join what "
            "one speaker says in a row.",
        ),
    ]  # fmt: skip


def alternates(roles: str) -> bool:
    """`roles` has a letter a turn; tool calls and their answers may repeat the assistant."""
    spoken = roles.replace("s", "")
    return "uu" not in spoken and not spoken.startswith("a")


def system_finding(table: Table) -> Finding | None:
    counts = Counter(table.systems)
    (usual, most), *others = counts.most_common()
    if not others or len(counts) > max(20, len(table) // 20):
        return None  # one for all rows, or each row its own: both are a plan
    rare = {system for system, n in others if n < 0.05 * len(table)}
    shown = "no system text" if not usual else f"{usual[:60]!r}"
    return says.of_rows(
        "system_texts", "warning" if rare else "note", table,
        [row for row, system in enumerate(table.systems) if system in rare],
        f"{len(counts)} system texts; {most / len(table):.0%} of the rows have {shown}. With a rare one: {{rows}}. "
        "What is trained under one text holds less under another; use the one that will be used later.",
        always=True, costs=bool(rare),
    )  # fmt: skip


def language_finding(table: Table, found: Sequence[str]) -> Finding | None:
    """`found` are the languages of the answers of `language_sample`."""
    rows = language_sample(len(table))
    counts = Counter(code for code in found if code)
    if len(counts) < 2:
        return None
    usual, most = counts.most_common(1)[0]
    if most < 0.5 * counts.total():
        usual = ""
    other = [row for row, code in zip(rows, found, strict=True) if usual and code and code != usual]
    listed = ", ".join(f"{code} {n / counts.total():.1%}" for code, n in counts.most_common(5))
    sampled = f" (every {rows.step}th row was looked at)" if rows.step > 1 else ""
    return says.of_rows(
        "languages", "note", table, other, f"Answers in several languages: {listed}{sampled}. Not in the usual one: "
        "{rows}. Leave out those that are not wanted.", always=True, costs=False,
    )  # fmt: skip


def format_finding(table: Table, alone: Alone, topics: Subjects | None) -> Finding | None:
    """Rows with residue look unlike the rest because of it; they are named for that alone. A form that the prompt asks
    for is meant, and the habits of such an answer are that form's."""
    traits, residue = alone.traits, alone.residue
    minority = style.minorities(traits, topics.rows, topics.nearest) if topics else style.minorities(traits)
    odd = [(row, name) for name, rows in minority for row in rows.tolist() if row not in residue]
    meant = {(row, name) for row, name in odd if style.asked_for(name, table.prompts[row])}
    of_meant = {row for row, _ in meant}
    rare = {
        row: name for row, name in reversed(odd)
        if (row, name) not in meant and (name in style.FORMS or row not in of_meant)
    }  # fmt: skip
    listed = "; ".join(f"{name}: {n}" for name, n in Counter(rare.values()).most_common(5))
    return says.of_rows(
        "format_minority", "warning", table, list(rare),
        f"Answers written unlike the rest, or unlike those to like requests ({listed}): {{rows}}. One format for one "
        "task; rewrite them, or add more of the kind.",
    )  # fmt: skip


def style_findings(table: Table, compared: Compared) -> list[Finding | None]:
    number = len(table)
    refused = style.refusals(table.answers)
    words = compared.prompts.counts[:number] + compared.answers.counts[:number]
    return [
        says.of_rows(
            "refusals", "warning" if len(refused) > 0.1 * number else "note", table, refused,
            "Answers that refuse: {rows}. A model refuses about as often as its examples do, and more widely; keep "
            "those that are wanted.",
            costs=len(refused) > 0.1 * number,
        ),
        label_finding(table),
        says.of_rows(
            "length_outliers", "note", table, style.length_outliers(words),
            "Rows far shorter or longer than the others: {rows}. Look whether something went wrong.", costs=False,
        ),
    ]  # fmt: skip


def label_finding(table: Table) -> Finding | None:
    counts = style.label_counts(table.answers)
    if not counts:
        return None
    fewest, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    balanced = counts[most] <= 5 * counts[fewest]
    told = (
        f"The answers are {len(counts)} labels; {most!r} is given {counts[most]:,} times, "
        f"{fewest!r} {counts[fewest]:,}."
    )
    if balanced:
        return Finding("label_balance", "note", told, data={"counts": counts})
    scarce = {label for label, n in counts.items() if 5 * n < counts[most]}
    rows = [row for row, answer in enumerate(table.answers) if answer.strip() in scarce]
    listed = ", ".join(map(repr, sorted(scarce)[:5]))
    return Finding(
        "label_balance", "warning", f"{told} A model leans to the frequent ones: add rows of {listed}.",
        table.origins(rows), {"counts": counts},
    )  # fmt: skip


def special_token_findings(table: Table, tokens: Collection[str], grave: frozenset[str]) -> list[Finding | None]:
    """Rows whose text holds special tokens of the model; those in `grave` begin and end turns."""
    found: dict[int, list[str]] = {}
    pattern = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or r"(?!)")
    for row, texts in enumerate(zip(table.systems, table.prompts, table.answers, strict=True)):
        if pieces := [piece for text in texts for piece in pattern.findall(text)]:
            found[row] = pieces
    ending = [row for row, pieces in found.items() if not grave.isdisjoint(pieces)]
    return [
        says.of_rows(
            "special_tokens", "error", table, ending,
            "Tokens with which this model begins or ends a turn, inside the text of {rows}. It would learn to end "
            "there, and read the rest as another speaker's; edit these rows, or leave them out (`--fix` strips the "
            "usual ones).",
        ),
        says.of_rows(
            "special_tokens", "warning", table, [row for row in found if row not in set(ending)],
            "Special tokens of this model inside the text of {rows}. They are read as such, not as characters; edit "
            "these rows unless that is wanted.",
        ),
    ]  # fmt: skip


def plots(table: Table, compared: Compared) -> dict[str, Any]:
    sides = {"prompt": compared.prompts, "answer": compared.answers}
    return {
        "lengths": {name: histogram(words.counts[: len(table)]) for name, words in sides.items()},
        "labels": style.label_counts(table.answers),
    }


def histogram(lengths: NDArray[np.int64]) -> dict[str, list[int]]:
    """Rows by length in words, in bins that double: [0, 1), [1, 2), [2, 4) ..."""
    edges = [0, *(2**power for power in range(int(lengths.max(initial=1)).bit_length() + 1))]
    return {"edges": edges, "rows": np.histogram(lengths, edges)[0].tolist()}
