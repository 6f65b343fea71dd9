"""The rows of a file as columns: what the checks read, in a fraction of the memory of whole examples."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

from residency.data.messages import Example, Message, Origin
from residency.data.validate import Purpose, Reading, unusable

KTO_MARKS = ("label", "kto_tag")
"""What TRL and LLaMA-Factory call the field that says whether an answer is a good one."""


@dataclass(slots=True)
class Table:
    """Column `i` of each list is row `i`. Plain text (no conversation) is an answer without a prompt."""

    files: list[str] = field(default_factory=list)
    file_lines: list[int] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    """What the user said, all turns before the last answer but for the system text; earlier answers included."""
    answers: list[str] = field(default_factory=list)
    """The last assistant turn; a tool call as `name(arguments)`."""
    systems: list[str] = field(default_factory=list)
    """The system text, or nothing."""
    roles: list[str] = field(default_factory=list)
    """A letter a turn: s(ystem), u(ser), a(ssistant), t(ool)."""
    marked_bad: list[bool] = field(default_factory=list)
    """Whether the row's answer is marked as one that should not be given, as KTO has it."""

    def __len__(self) -> int:
        return len(self.answers)

    def add(self, example: Example) -> None:
        self.files.append(example.origin.file)
        self.file_lines.append(example.origin.line)
        if example.text is not None:
            prompt, answer, system, roles = "", example.text, "", ""
        else:
            system, prompt = split_prompt(example.prompt)
            answer = text_of(example.messages[-1])
            roles = "".join(message["role"][0] for message in example.messages)
        self.prompts.append(prompt)
        self.answers.append(answer)
        # One shared string for a system text that thousands of rows repeat.
        self.systems.append(self.systems[-1] if self.systems and self.systems[-1] == system else system)
        self.roles.append(sys.intern(roles))
        self.marked_bad.append(any(example.fields.get(key) is False for key in KTO_MARKS))

    def origin(self, row: int) -> Origin:
        return Origin(self.files[row], self.file_lines[row])

    def origins(self, rows: Iterable[int]) -> list[Origin]:
        return [self.origin(int(row)) for row in rows]


def table_of(examples: Iterable[Example]) -> Table:
    table = Table()
    for example in examples:
        table.add(example)
    return table


@dataclass(frozen=True, slots=True)
class TableRead:
    table: Table
    format: str
    format_reason: str
    unusable: dict[Origin, str]
    """Rows that cannot be used, and why."""


def read_table(source: str, *, purpose: Purpose = "train", skip_unusable: bool = False) -> TableRead:
    """The rows of a file (see `sources`), one at a time, so that a file larger than the memory's half can be checked.

    Raises DataError with every unusable row, as `load_examples` does; with `skip_unusable` they are listed instead.
    """
    reading, table = Reading(source, purpose=purpose), Table()
    skipped: dict[Origin, str] = {}
    problems: list[str] = []
    for row in reading:
        if row.example:
            table.add(row.example)
        else:
            skipped[row.raw.origin] = "; ".join(row.problems)
            problems += [f"{row.raw.origin}: {problem}" for problem in row.problems]
    if reading.chosen is None or not len(table) or (problems and not skip_unusable):
        raise unusable(source, len(skipped), len(skipped) + len(table), problems, reading.meant)
    return TableRead(table, reading.chosen, reading.reason, skipped)


def joined_tables(first: Table, second: Table) -> Table:
    """The rows of both; numbers of the second's rows follow the first's."""
    return Table(*(getattr(first, column.name) + getattr(second, column.name) for column in fields(Table)))


def split_prompt(messages: Sequence[Message]) -> tuple[str, str]:
    """(system text, the rest as one text)."""
    system = "\n".join(message["content"] or "" for message in messages if message["role"] == "system")
    rest = [text_of(message) for message in messages if message["role"] != "system"]
    return system, rest[0] if len(rest) == 1 else "\n".join(rest)


def text_of(message: Message) -> str:
    """A turn as text; tool calls are written behind what is said."""
    calls = [f"{call['function']['name']}({call['function']['arguments']})" for call in message.get("tool_calls", ())]
    content = message["content"] or ""
    return "\n".join([content, *calls] if content else calls) if calls else content
