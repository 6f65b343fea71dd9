"""`residency check`: what is wrong with the data, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residency.cli.options import AsJson, Overrides
from residency.cli.output import print_answer, print_line
from residency.config.load import load_run, parse_run
from residency.config.model import RunConfig
from residency.errors import ConfigError
from residency.wording import counted

if TYPE_CHECKING:
    from residency.data.audit.audit import Audit
    from residency.data.messages import Origin

EPILOG = """
Examples

    residency check run.yaml

    residency check train.jsonl --test test.jsonl

    residency check train.jsonl --model smollm2-135m

    residency check train.jsonl --model smollm2-135m --eye

    residency check train.jsonl --fix clean.jsonl --split 80/10/10

    residency check train.jsonl --fix clean.jsonl --drop contradictions --drop misfit_answers=15%
"""
BESIDE = {"contradictions": "against", "varied_answers": "against", "uncovered_tests": "nearest"}
"""How a row stands to the one named below it; elsewhere it says the same."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of the data; about tokens only where a model is named."""

    source: str
    """The training rows."""
    rows: dict[str, int]
    format: str
    format_reason: str
    audit: Audit
    unusable: Mapping[Origin, str] = field(default_factory=dict)
    tokens: dict[str, float] | None = None
    over_long: int = 0
    example: str = ""


def add_to(app: typer.Typer) -> None:
    app.command("check", epilog=EPILOG)(check)


def check(
    source: Annotated[
        str, typer.Argument(metavar="DATA_OR_RUN_YAML", help="A data file or `hub:org/name`, or a run file.")
    ],
    model: Annotated[
        str | None, typer.Option("--model", help="Also count tokens and render a row with this model's template.")
    ] = None,
    test: Annotated[str | None, typer.Option("--test", help="Rows that must not stand in the data.")] = None,
    fix: Annotated[
        Path | None, typer.Option("--fix", help="Write the repaired rows here, and a log of each change beside it.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="With --fix: shares such as 80/10/10, near copies on one side."),
    ] = None,
    review: Annotated[bool, typer.Option("--review", help="With --fix: accept or reject each change.")] = False,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            "--drop",
            metavar="FINDING[=SHARE%]",
            help="With --fix: leave out the rows of this finding too, or the first of them, up to that share of all "
            "rows.",
        ),
    ] = None,
    eye: Annotated[
        bool,
        typer.Option("--eye", help="Let the model read the rows: wrong answers, facts it holds otherwise (minutes)."),
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings too (exit 3).")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Name every row that cannot be used, with file, line and reason (exit 3); else say what the data lack, with
    a score.

    Nothing is changed without --fix, and then only in the new file. With a model, one row is shown as it sees it, with
    the text that carries loss between >>> and <<<.
    """
    from residency.cli.fix import Wishes, fix_rows, refuse_fix
    from residency.data.audit.audit import refuse

    wishes = Wishes(split, review, drop or ())
    refuse_fix(fix, wishes)
    config = run_config(source, model, test, overrides or [])
    if eye and config is None:
        raise ConfigError("--eye needs a model", param="--eye", hint="name one with --model")
    found = check_rows(source, test, skip_unusable=fix is not None) if config is None else check_run(config, eye=eye)
    fixed = fix_rows(found.source, found.audit, found.unusable, fix, wishes) if fix else None
    if as_json:
        print_answer(record(source, found) | ({"fixed": fixed} if fixed else {}))
    else:
        show(source, found)
        for line in fixed["said"] if fixed else ():
            print_line(line)
    if not fixed:
        refuse(found.audit, strict=strict or bool(config and config.data.strict))


def run_config(source: str, model: str | None, test: str | None, overrides: list[str]) -> RunConfig | None:
    """Null where only a data file is named: nothing of a run is known then."""
    if Path(source).suffix in (".yaml", ".yml"):
        more = [f"model.id={model}"] if model else []
        return load_run(Path(source), [*overrides, *more, *([f"data.test={test}"] if test else [])])
    if overrides:
        raise ConfigError("--set: changes a run file, and none is named", param="--set", hint="name a run file")
    if model is None:
        return None
    data = {"train": source, "eval": None, "test": test}
    return parse_run({"model": {"id": model}, "data": data}, source="--model")


def check_rows(source: str, test: str | None, *, skip_unusable: bool) -> Checked:
    from residency.data.audit.audit import audit, unusable_finding, with_findings
    from residency.data.audit.table import read_table

    read = read_table(source, skip_unusable=skip_unusable)
    unseen = read_table(test, purpose="test").table if test else None
    rows = {"read": len(read.table) + len(read.unusable)} | ({"test": len(unseen)} if unseen else {})
    found = with_findings(audit(read.table, unseen), [unusable_finding(read)])
    return Checked(source, rows, read.format, read.format_reason, found, read.unusable)


def check_run(config: RunConfig, *, eye: bool) -> Checked:
    from residency import pipeline

    found = pipeline.check(config, eye=eye)
    return Checked(config.data.train, found.rows, found.format, found.format_reason, found.audit,
                   tokens=found.tokens, over_long=found.over_long, example=found.example)  # fmt: skip


def record(source: str, found: Checked) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "source": source,
        "format": found.format,
        "format_reason": found.format_reason,
        "rows": found.rows,
    }
    if found.tokens is not None:
        answer |= {"tokens": found.tokens, "over_long": found.over_long, "example": found.example}
    return answer | {"audit": found.audit.as_record()}


def show(source: str, found: Checked) -> None:
    usable = "all rows can be used"
    if found.unusable:
        usable = f"{len(found.unusable):,} of {counted(found.rows['read'], 'row')} cannot be used"
    print_line(f"{source}: {usable}")
    print_line(f"format: {found.format}; {found.format_reason}")
    print_line("rows:   " + ", ".join(f"{count:,} {name}" for name, count in found.rows.items()))
    if tokens := found.tokens:
        print_line(
            f"tokens: {tokens['total']:,} in the training rows, {tokens['trained']:,} of them trained; a row has "
            f"{tokens['p50']:,.0f} (median), {tokens['p99']:,.0f} (99 %), {tokens['longest']:,} (longest)"
        )
    else:
        print_line("tokens: name a model with --model to count them and to see a row as it sees it")
    show_findings(found.audit)
    if found.example:
        print_line(f"\n{found.example}")


def show_findings(audit: Audit) -> None:
    """The score, then each finding with the points it costs and its first rows."""
    from residency.data.audit.excerpts import ROWS_SHOWN
    from residency.data.audit.score import points_lost

    said = audit.excerpts()
    print_line(f"score:  {audit.score} of 100")
    for finding, points in zip(audit.findings, points_lost(audit.findings), strict=True):
        cost = f" (-{points:.1f} points)" if points >= 0.05 else ""
        print_line(f"\n{finding.severity}: {finding.check}{cost}: {finding.message}")
        for number, origin in enumerate(finding.rows[:ROWS_SHOWN]):
            text = finding.data["reasons"][number] if "reasons" in finding.data else said.get(origin)
            print_line(f"  {origin}: {text}" if text else f"  {origin}")
            if finding.others:
                other, how = finding.others[number], BESIDE.get(finding.check, "as")
                print_line(f"    {how} {other}: {said[other]}" if other in said else f"    {how} {other}")
        if len(finding.rows) > ROWS_SHOWN:
            print_line(f"  and {len(finding.rows) - ROWS_SHOWN:,} more (--json names them)")
