"""`residency check --fix`: makes the repairs, after asking for each of them with --review."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from residency.errors import ConfigError
from residency.wording import counted

if TYPE_CHECKING:
    from residency.data.audit.audit import Audit
    from residency.data.audit.fix import Change
    from residency.data.audit.table import Table
    from residency.data.messages import Origin

TEXT_SHOWN = 600


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was asked for with --fix."""

    split: str | None
    review: bool
    drop: Sequence[str]


def refuse_fix(fix: Path | None, wishes: Wishes) -> None:
    """Raises ConfigError before any work is done."""
    if fix is None and (wishes.split or wishes.review or wishes.drop):
        raise ConfigError(
            "--split, --review and --drop belong to --fix", param="--fix", hint="name a file with --fix OUT.jsonl"
        )
    if fix and fix.suffix != ".jsonl":
        raise ConfigError(
            f"--fix {fix}: the repaired rows are JSONL", param="--fix", hint="name a file that ends in .jsonl"
        )
    if fix and not fix.parent.is_dir():
        raise ConfigError(f"--fix {fix}: there is no folder {fix.parent}", param="--fix")
    if fix and (taken := [name for name in (fix, *fix.parent.glob(f"{fix.stem}.*.jsonl")) if name.exists()]):
        raise ConfigError(f"--fix {fix}: {taken[0]} exists already", param="--fix", hint="name another file")


def fix_rows(source: str, audit: Audit, unusable: Mapping[Origin, str], out: Path, wishes: Wishes) -> dict[str, Any]:
    """Writes the repaired rows and the change log; returns what was done, `said` in sentences."""
    from residency.data.audit.fix import change_log, parse_drops, proposals, write_fixed
    from residency.data.audit.parts import parse_shares, split_by_cluster

    shares = parse_shares(wishes.split) if wishes.split else None
    proposed = proposals(audit, unusable, parse_drops(wishes.drop))
    changes = asked(proposed, audit) if wishes.review else [change for change in proposed if change.wanted]
    parts = None
    if shares:
        names = split_by_cluster(audit.groups, shares)
        parts = dict(zip(audit.table.file_lines, names, strict=True))
    written = write_fixed(source, changes, out, parts)
    made = Counter(f"{change.action} ({change.check})" for change in changes)
    left = sum(not change.wanted for change in proposed) - sum(not change.wanted for change in changes)
    listed = ", ".join(f"{name}: {counted(count, 'row')}" for name, count in made.items()) or "none"
    said = [
        "",
        *(f"wrote {name}: {counted(rows, 'row')}" for name, rows in written.items()),
        f"changes: {listed}; each is in {change_log(out)}",
    ]
    if left:
        said.append(f"left as they are: rows that contradict another, {left:,}; --fix with --review asks for each")
    return {"files": written, "changes": dict(made), "log": str(change_log(out)), "said": said}


def asked(proposed: Sequence[Change], audit: Audit) -> list[Change]:
    """The changes that a person accepts at the terminal."""
    from rich.prompt import Prompt

    from residency.progress import console

    accepted: list[Change] = []
    row_of = {line: row for row, line in enumerate(audit.table.file_lines)}
    answer = ""
    for number, change in enumerate(proposed, 1):
        if answer not in ("all", "none"):
            show_change(change, audit.table, row_of)
            question = f"{number} of {len(proposed)}: {change.action} {change.origin}: it {change.reason}"
            console.print(question, markup=False)
            choices = ["y", "n", *(["other"] if change.check == "contradictions" else []), "all", "none"]
            more = "other drops the other one; " if "other" in choices else ""
            answer = Prompt.ask(f"do it? ({more}all and none answer for the rest)", console=console,
                                choices=choices, default="y" if change.wanted else "n")  # fmt: skip
        if answer == "y" or (answer == "all" and change.wanted):
            accepted.append(change)
        elif answer == "other" and change.other:
            accepted.append(replace(change, origin=change.other, other=change.origin))
    return accepted


def show_change(change: Change, table: Table, row_of: Mapping[int, int]) -> None:
    """The row, the one that it repeats or contradicts, and what an edit would make of it."""
    from rich.panel import Panel
    from rich.text import Text

    from residency.data.audit.fix import EDITS
    from residency.progress import console

    edit = EDITS.get(change.action)
    panels = [(origin, None) for origin in (change.other, change.origin) if origin and origin.line in row_of]
    for origin, made in [*panels, *([(change.origin, edit)] if edit else [])]:
        row = row_of[origin.line]
        texts = [table.prompts[row], table.answers[row]]
        if made:
            texts = [made(text, answer) for text, answer in zip(texts, (False, True), strict=True)]
        body = Text("\n\n> ".join(text[:TEXT_SHOWN] for text in texts))
        console.print(Panel(body, title="afterwards" if made else str(origin), title_align="left"))
