"""The card as a heat map: behaviours down, kinds of prompts across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from residency.evals.card_prompts import ELSEWHERE, KINDS, NEAR
from residency.evals.card_records import Card, Probe, ProbeKind
from residency.evals.card_summary import TITLES
from residency.records import Interval

LONGEST_PROMPT, LONGEST_OUTPUT = 160, 90
FAILURES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Square:
    held: int
    n: int
    note: str
    """Each prompt with what was said, or why there is none."""

    @property
    def level(self) -> str:
        """A name for its colour."""
        return "empty" if not self.n else "all" if self.held == self.n else "none" if not self.held else "some"


@dataclass(frozen=True, slots=True)
class Row:
    question: str
    answer: str
    origin: str
    squares: list[Square]


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    holds: Interval | None
    before: Interval | None
    right: Interval | None


@dataclass(frozen=True, slots=True)
class Failure:
    kind: str
    prompt: str
    expected: str
    output: str


@dataclass(frozen=True, slots=True)
class HeatMap:
    groups: list[tuple[str, int]]
    """A heading and how many columns it spans."""
    columns: list[Column]
    rows: list[Row]
    failures: list[Failure]
    """Prompts at which the behaviour did not hold, of each kind in turn."""
    empty: list[tuple[str, str]]
    """Kinds that some rows do not have, and the reasons."""


def heat_map(card: Card | None) -> HeatMap | None:
    if card is None:
        return None
    kinds: list[ProbeKind] = [*NEAR, *ELSEWHERE, *(kind for kind in KINDS if kind not in NEAR + ELSEWHERE)]
    lines = {line.kind: line for line in card.kinds}
    rows = [
        Row(one.question, one.answer, one.row, [square(card, number, kind) for kind in kinds])
        for number, one in enumerate(card.behaviours)
    ]
    columns = [
        Column(TITLES[kind], line.holds, line.before, line.right) if (line := lines.get(kind)) else
        Column(TITLES[kind], None, None, None)
        for kind in kinds
    ]  # fmt: skip
    besides = len(kinds) - len(NEAR) - len(ELSEWHERE)
    groups = [("like training", len(NEAR)), ("elsewhere", len(ELSEWHERE)), ("besides", besides)]
    return HeatMap(groups, columns, rows, failures(card), reasons(card, kinds))


def square(card: Card, number: int, kind: ProbeKind) -> Square:
    probes = [one for one in card.probes if one.behaviour == number and one.kind == kind]
    if not probes:
        return Square(0, 0, f"{TITLES[kind]}: not asked, {card.behaviours[number].empty[kind]}")
    told = [f"{'holds' if one.holds else 'does not hold'}: {asked(one)} -> {said(one)}" for one in probes]
    return Square(sum(bool(one.holds) for one in probes), len(probes), "\n".join([TITLES[kind], *told]))


def asked(probe: Probe) -> str:
    """The last of what the model is shown."""
    return cut(str(probe.messages[-1]["content"]) if probe.messages else probe.text, LONGEST_PROMPT)


def said(probe: Probe) -> str:
    return cut(probe.output or "", LONGEST_OUTPUT)


def cut(text: str, longest: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"


def failures(card: Card) -> list[Failure]:
    by_kind = [[one for one in card.probes if one.kind == kind and not one.holds] for kind in KINDS]
    deepest = max(map(len, by_kind))
    turns = [some[i] for i in range(deepest) for some in by_kind if i < len(some)]
    return [
        Failure(TITLES[one.kind], asked(one), cut(one.answer, LONGEST_OUTPUT), said(one))
        for one in turns[:FAILURES_SHOWN]
    ]


def reasons(card: Card, kinds: Sequence[ProbeKind]) -> list[tuple[str, str]]:
    """Kind, and `reason (rows)` for each reason."""
    found = []
    for kind in kinds:
        said = [one.empty[kind] for one in card.behaviours if kind in one.empty]
        if said:
            found.append((TITLES[kind], "; ".join(f"{why} ({said.count(why)})" for why in dict.fromkeys(said))))
    return found
