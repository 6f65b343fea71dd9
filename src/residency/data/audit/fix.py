"""Repairs: each is a change to one row, which is proposed first, logged when it is made, and made only on request."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import BufferedWriter
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from residency import durable
from residency.data.audit.audit import Audit
from residency.data.audit.private import find_private, mask_private
from residency.data.audit.residue import find_residue, strip_residue
from residency.data.audit.similar import groups
from residency.data.audit.table import Table
from residency.data.messages import Origin
from residency.data.validate import Reading
from residency.errors import ConfigError

Action = Literal["drop", "mask", "strip"]
PROMPT_KEYS = ("prompt", "instruction", "input")
ANSWER_KEYS = ("completion", "output", "text")


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done with one row, and why."""

    origin: Origin
    action: Action
    check: str
    reason: str
    other: Origin | None = None
    """The row it repeats or contradicts."""
    data: dict[str, Any] = field(default_factory=dict)
    wanted: bool = True
    """Whether `--fix` makes it without being asked row by row."""

    def as_record(self) -> dict[str, Any]:
        return {
            "row": str(self.origin),
            "action": self.action,
            "check": self.check,
            "reason": self.reason,
            **({"other": str(self.other)} if self.other else {}),
            **self.data,
        }


def proposals(
    found: Audit,
    unusable: Mapping[Origin, str] = MappingProxyType({}),
    drops: Mapping[str, float] = MappingProxyType({}),
) -> list[Change]:
    """Every repair that the audit's findings allow, at most one drop a row, in the order of the rows.

    Copies, rows that stand in the test and unusable rows are dropped, private data masked, residue stripped. Of two
    rows that contradict each other a person has to choose: those changes are proposed, but not `wanted`. The rows of a
    finding named in `drops` go too, at most that share of all rows, the most telling first.

    Raises ConfigError where the audit has no such finding with rows.
    """
    table = found.table
    changes = [Change(origin, "drop", "unusable", reason) for origin, reason in unusable.items()]
    dropped: set[int] = set()

    def drop(row: int, check: str, reason: str, other: Origin | None, *, wanted: bool = True, **data: Any) -> None:
        if row not in dropped:
            dropped.add(row)
            changes.append(Change(table.origin(row), "drop", check, reason, other, data, wanted))

    for test_pair in found.leaks.tolist():
        drop(test_pair[0], "leaks", "stands in the test data too, or nearly so", None)
    exact = {origin for one in found.findings if one.check == "exact_duplicates" for origin in one.rows}
    for cluster in groups(found.clusters):
        kept = next((row for row in cluster if row not in dropped), cluster[0])
        weight = round(math.log2(1 + len(cluster)), 2)
        for row in cluster:
            if row != kept:
                check = "exact_duplicates" if table.origin(row) in exact else "near_duplicates"
                drop(row, check, "repeats another row", table.origin(kept), rows=len(cluster), weight=weight)
    row_of = {line: row for row, line in enumerate(table.file_lines)}
    for check, share in drops.items():
        for origin in rows_of_finding(found, check)[: math.ceil(share * len(table))]:
            drop(row_of[origin.line], check, f"is among the rows of {check}", None)
    for first, row in found.contradictions.tolist():
        drop(row, "contradictions", "answers differently than another row", table.origin(first), wanted=False)
    changes += [change for row in range(len(table)) if row not in dropped for change in edits(table, row)]
    return sorted(changes, key=lambda change: (change.origin.line, change.action))


def rows_of_finding(found: Audit, check: str) -> list[Origin]:
    names = {one.check: one.rows for one in found.findings if one.rows and one.rows[0].file in found.table.files[:1]}
    if check not in names:
        raise ConfigError(f"--drop {check}: the data have no such finding", param="--drop",
                          hint=f"those with rows are {', '.join(names)}" if names else "leave it out")  # fmt: skip
    return names[check]


def parse_drops(texts: Iterable[str]) -> dict[str, float]:
    """`contradictions`, or with a share of all rows `misfit_answers=15%`. Raises ConfigError."""
    drops = {}
    for text in texts:
        parts = re.fullmatch(r"\s*(\w+)\s*(?:=\s*(\d+(?:\.\d+)?)\s*%)?\s*", text)
        if not parts:
            raise ConfigError(f"--drop {text}: not a finding's name", param="--drop",
                              hint="for example contradictions, or misfit_answers=15%")  # fmt: skip
        drops[parts[1]] = float(parts[2] or 100) / 100
    return drops


def edits(table: Table, row: int) -> Iterator[Change]:
    texts = (table.systems[row], table.prompts[row], table.answers[row])
    if kinds := Counter(one.kind for text in texts for one in find_private(text)):
        check = "secrets" if "secret" in kinds else "personal_data"
        yield Change(table.origin(row), "mask", check, "holds " + ", ".join(map(in_words, kinds)), data=dict(kinds))
    pieces = find_residue(table.prompts[row], answer=False) + find_residue(table.answers[row], answer=True)
    if pieces:
        yield Change(table.origin(row), "strip", "residue", f"holds {pieces[0]!r} of a prompt template")


def in_words(kind: str) -> str:
    article = "an" if kind[0] in "aei" else "a"
    return f"{article} {kind}" + {"e-mail": " address", "phone": " number", "card": " number"}.get(kind, "")


def write_fixed(
    source: str, changes: Iterable[Change], out: Path, parts: Mapping[int, str] | None = None
) -> dict[str, int]:
    """Writes the rows of `source` with the changes made, and beside them `<out>.changes.jsonl`, one change a line.

    With `parts` (line -> part's name) each part has its own file, for example `clean.train.jsonl`. A row keeps the
    form it has in the source. Returns the rows by file name.
    """
    of_line: dict[int, list[Change]] = {}
    for change in changes:
        of_line.setdefault(change.origin.line, []).append(change)
    files: dict[Path, BufferedWriter] = {}
    written: Counter[str] = Counter()
    with ExitStack() as open_files:
        for row in Reading(source):
            made = of_line.get(row.raw.origin.line, [])
            if any(change.action == "drop" for change in made):
                continue
            value = row.raw.value
            for change in made:
                value = edited(value, EDITS[change.action])
            file = part_file(out, parts.get(row.raw.origin.line) if parts else None)
            if file not in files:
                files[file] = open_files.enter_context(durable.new_file(file))
            files[file].write(json_line(value))
            written[str(file)] += 1
    log = [json_line(change.as_record()) for made in of_line.values() for change in made]
    durable.write_bytes(change_log(out), b"".join(log))
    return dict(written)


def json_line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def part_file(out: Path, part: str | None) -> Path:
    return out.with_name(f"{out.stem}.{part}{out.suffix}") if part else out


def change_log(out: Path) -> Path:
    return out.with_name(f"{out.stem}.changes.jsonl")


Edit = Callable[[str, bool], str]
EDITS: dict[str, Edit] = {
    "mask": lambda text, answer: mask_private(text),
    "strip": lambda text, answer: strip_residue(text, answer=answer),
}


def edited(row: Any, edit: Edit) -> Any:
    """The row with `edit(text, is_answer)` applied to every text that a model sees; anything else stays as it is."""
    if not isinstance(row, dict):
        return row
    changed = dict(row)
    for keys, answer in ((PROMPT_KEYS, False), (ANSWER_KEYS, True), (("system",), False)):
        changed |= {key: edit(row[key], answer) for key in keys if isinstance(row.get(key), str)}
    for key, text_key, role_key in (("messages", "content", "role"), ("conversations", "value", "from")):
        if isinstance(row.get(key), list):
            changed[key] = [edited_turn(turn, text_key, role_key, edit) for turn in row[key]]
    if isinstance(row.get("history"), list):
        changed["history"] = [[edit(text, i == 1) if isinstance(text, str) else text for i, text in enumerate(pair)]
                              if isinstance(pair, list) else pair for pair in row["history"]]  # fmt: skip
    return changed


def edited_turn(turn: Any, text_key: str, role_key: str, edit: Edit) -> Any:
    if not isinstance(turn, dict):
        return turn
    answer = turn.get(role_key) in ("assistant", "gpt", "model", "chatgpt")
    changed = dict(turn)
    content = turn.get(text_key)
    if isinstance(content, str):
        changed[text_key] = edit(content, answer)
    elif isinstance(content, list):  # text parts, as OpenAI writes them
        changed[text_key] = [edited_part(part, edit, answer) for part in content]
    return changed


def edited_part(part: Any, edit: Edit, answer: bool) -> Any:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return {**part, "text": edit(part["text"], answer)}
    return part
