"""Loads a data file whole, or raises with everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from residency.data.formats import KEYS, Format, detect, for_another_method, kind, to_messages
from residency.data.messages import Example, Message, Origin
from residency.data.sources import RawRow, read_rows
from residency.data.turns import check_tools, check_turns
from residency.errors import DataError
from residency.wording import counted

Purpose = Literal["train", "eval", "test"]
EXPECTED = "; ".join(f"{name}: {' + '.join(keys)}" for name, keys in KEYS.items())


@dataclass(frozen=True, slots=True)
class Loaded:
    examples: list[Example]
    format: Format
    format_reason: str
    rows_read: int


@dataclass(frozen=True, slots=True)
class Checked:
    """A row as it was read, and the example it makes; or why it makes none."""

    raw: RawRow
    example: Example | None
    problems: list[str]


class Reading:
    """The rows of `source` (see `sources`), checked one by one; what was chosen is known once a row was recognised.

    With "auto" the first row whose format is recognised decides, and the others must agree. Training and held-out
    rows must leave something to train on; test rows must end with the reference answer.
    """

    def __init__(self, source: str, format: Format | Literal["auto"] = "auto", *, purpose: Purpose = "train") -> None:
        self.source = source
        self.purpose = purpose
        self.auto = format == "auto"
        self.chosen: Format | None = None if format == "auto" else format
        self.reason = "set by data.format"
        self.meant: str | None = None
        """What the unusable rows are for, where the keys of one tell."""

    def __iter__(self) -> Iterator[Checked]:
        for row in read_rows(self.source):
            found = [row.problem] if row.problem else _shape_problems(row.value)
            if not found:
                if self.chosen is None and (chosen := detect(row.value)):
                    keys = " and ".join(repr(key) for key in KEYS[chosen])
                    self.chosen, self.reason = chosen, f"the rows have {keys} (first seen at {row.origin})"
                found = _format_problems(row.value, self.chosen, auto=self.auto)
            example = None
            if not found and self.chosen:
                example, found = _to_example(row.origin, row.value, self.chosen, self.purpose)
            if found and isinstance(row.value, dict):
                self.meant = self.meant or for_another_method(row.value)
            yield Checked(row, None if found else example, found)


def load_examples(source: str, format: Format | Literal["auto"] = "auto", *, purpose: Purpose = "train") -> Loaded:
    """Every row of `source` as an Example, in order, read as `Reading` says.

    Raises one DataError whose `problems` name every unusable row with file, line and reason.
    """
    reading = Reading(source, format, purpose=purpose)
    examples: list[Example] = []
    problems: list[str] = []
    bad_rows = rows_read = 0
    for row in reading:
        rows_read += 1
        if row.example:
            examples.append(row.example)
        bad_rows += bool(row.problems)
        problems += [f"{row.raw.origin}: {problem}" for problem in row.problems]
    if problems or reading.chosen is None:
        raise unusable(source, bad_rows, rows_read, problems, reading.meant)
    return Loaded(examples, reading.chosen, reading.reason, rows_read)


def unusable(source: str, bad_rows: int, rows_read: int, problems: list[str], meant: str | None = None) -> DataError:
    """The hint says what the rows are for, where that is known (`meant`); else it names the way round the bad ones,
    where some are left on it."""
    some = ", or leave them out with `residency check FILE --fix CLEAN.jsonl`" if bad_rows < rows_read else ""
    return DataError(
        f"{bad_rows:,} of {counted(rows_read, 'row')} in {source} cannot be used",
        param=source,
        hint=meant or f"correct these rows{some}; nothing is dropped unasked",
        problems=problems,
    )


def _shape_problems(value: Any) -> list[str]:
    if not isinstance(value, dict):
        return [f"is {kind(value)}; expected an object"]
    if value.get("weight") is not None:
        return ['has an extra "weight"; a weight belongs on an assistant message']
    return []


def _format_problems(value: dict[str, Any], chosen: Format | None, *, auto: bool) -> list[str]:
    if not auto or detect(value) == chosen is not None:
        return []
    found = detect(value)
    if found is None:
        keys = ", ".join(value) or "none"
        return [f"is of no known format (its keys: {keys}); expected {EXPECTED}"]
    return [f"is of the format {found}, but the rows before it are {chosen}; one file holds one format"]


def _to_example(origin: Origin, value: dict[str, Any], format: Format, purpose: Purpose) -> tuple[Example, list[str]]:
    if format == "text":
        return _text_example(origin, value, purpose)
    turns, raw_tools, problems = to_messages(value, format)
    tools = check_tools(raw_tools, problems)
    messages: tuple[Message, ...] = ()
    if not problems:
        messages = check_turns(turns, problems, must_train=purpose != "test")
    if problems:
        return Example(origin), problems
    fields = {"reference": messages[-1]["content"] or "", "prompt": readable(messages[:-1]), **value}
    return Example(origin, messages, tools, fields=fields), []


def _text_example(origin: Origin, value: dict[str, Any], purpose: Purpose) -> tuple[Example, list[str]]:
    text = value.get("text")
    if purpose == "test":
        return Example(origin), ["is plain text; a test row needs a prompt and a reference answer"]
    if not isinstance(text, str):
        return Example(origin), [f"text is {kind(text) if 'text' in value else 'missing'}; expected text"]
    if not text.strip():
        return Example(origin), ["text is empty"]
    return Example(origin, text=text, fields=dict(value)), []


def readable(messages: Sequence[Message]) -> str:
    """A conversation as text for people and graders: a lone message as it stands, several with their roles."""
    if len(messages) == 1:
        return messages[0]["content"] or ""
    return "\n".join(f"{message['role']}: {message['content'] or ''}" for message in messages)
