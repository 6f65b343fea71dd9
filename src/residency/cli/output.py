"""What people and programs see: answers on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from residency import progress
from residency.records import Comparison, Event, Interval
from residency.wording import SPACE, percent, points, probability, score, signed

stdout = Console(highlight=False)
STYLES = {"info": "dim", "warning": "yellow", "error": "red"}


def print_answer(value: Any) -> None:
    """The one JSON value of `--json`."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False), flush=True)


def print_line(text: str = "", *, style: str | None = None, console: Console = stdout) -> None:
    console.print(laid_out(text, console), style=style, markup=False, highlight=False, soft_wrap=True)


def laid_out(text: str, console: Console) -> str:
    """A terminal breaks long lines between words, and no word, which may be a path; a file or a pipe has them whole."""
    if not console.is_terminal:
        return text
    return "\n".join(_broken(line, console.width) for line in text.split("\n"))


def _broken(line: str, width: int) -> str:
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False,
                         replace_whitespace=False, expand_tabs=False)  # fmt: skip


def print_table(table: Table) -> None:
    stdout.print(table)


def print_error(text: str) -> None:
    shown = Text(laid_out(f"error: {text}", progress.console))
    shown.stylize("bold red", 0, len("error:"))
    progress.console.print(shown, soft_wrap=True)


def listener(as_json: bool) -> Callable[[Event], None]:
    """Shows a run's events: as calm lines, or as one JSON object a line."""
    return print_event_as_json if as_json else print_event


def print_event(event: Event) -> None:
    prefix = "" if event.level == "info" else f"{event.level}: "
    print_line(prefix + event.message, style=STYLES[event.level], console=progress.console)


def print_event_as_json(event: Event) -> None:
    print(event.model_dump_json(), file=sys.stderr, flush=True)


def table(columns: Iterable[str], rows: Iterable[Sequence[object]], *, right: Sequence[int] = ()) -> Table:
    """`right` holds the positions of the columns of numbers."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for position, name in enumerate(columns):
        number = position in right
        shown.add_column(name, justify="right" if number else "left", overflow="fold", no_wrap=number)
    for row in rows:
        shown.add_row(*map(_plain, row))
    return shown


def _plain(value: object) -> str:
    """Text in which rich finds no markup."""
    from rich.markup import escape

    return escape(str(value))


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Test by test: before, after and the gain, each with its 95 % interval below it. 80 columns are enough."""
    columns = ("", "before", "after", "gain", "McNemar")
    rows: list[tuple[str, ...]] = []
    for test, group in groupby(comparisons, key=lambda one: one.test):
        rows += [(test, "", "", "", ""), *map(_comparison_row, group)]
    return table(columns, rows, right=(1, 2, 3))


def _comparison_row(one: Comparison) -> tuple[str, ...]:
    level, change = (percent, points) if one.p_value is not None else (score, signed)
    p_value = probability(one.p_value) if one.p_value is not None else ""
    parts = (_with_limits(one.before, level), _with_limits(one.after, level), _with_limits(one.gain, change))
    return f"  {one.grader}\n  vs {one.baseline}", *parts, p_value


def _with_limits(interval: Interval, shown: Callable[[float], str]) -> str:
    low, high = (shown(limit).removesuffix(f"{SPACE}%") for limit in (interval.low, interval.high))
    return f"{shown(interval.value)}\n[{low}, {high}]"
