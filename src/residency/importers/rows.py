"""Their training and evaluation rows as `data.train`, `data.format` and `data.eval`."""

from __future__ import annotations

from typing import NamedTuple

from residency.importers.ledger import Ledger

JOINED = "train.jsonl"


class Rows(NamedTuple):
    source: str
    """Our name of it (`sources`)."""
    format: str | None
    """Ours, or None where the rows have to be rewritten first."""


def put_rows(ledger: Ledger, key: str, found: list[Rows]) -> None:
    """One source as it is; several are to be joined, since a run trains on one."""
    pretrain = any(rows.format == "text" for rows in found)
    ledger.run["method"] = {"name": "pretrain" if pretrain else "sft"}
    if len(found) == 1:
        ledger.carry(key, "data.train", found[0].source)
        if found[0].format:
            ledger.carry(key, "data.format", found[0].format)
        return
    ledger.put("data.train", JOINED)
    if pretrain:
        sources = ", ".join(rows.source for rows in found)
        ledger.note("to_do", key, f"write the rows of {sources} into one {JOINED}, each as "
                    '{"text": ...}: a run trains on one file, all of it plain text or none')  # fmt: skip
        return
    parts = [f"part{number}.jsonl" for number in range(1, len(found) + 1)]
    commands = [f"residency convert {rows.source} {part} --to chat" for rows, part in zip(found, parts, strict=True)]
    ledger.put("data.format", "chat")
    ledger.note("to_do", key, f"data.train: {JOINED}; a run trains on one file, so join them beside the run file "
                f"first: {' && '.join(commands)} && cat {' '.join(parts)} > {JOINED}")  # fmt: skip


def put_held_out(ledger: Ledger, key: str, size: float | None) -> None:
    """A share below 1, a number of rows from 1 on, or none."""
    if not size:
        ledger.carry(key, "data.eval", None, default=size is None)
    elif size < 1:
        ledger.carry(key, "data.eval", f"{size:.4%}".rstrip("%").rstrip("0").rstrip(".") + "%")
    else:
        ledger.put("data.eval", "10%")
        ledger.note("differs", key, f"a number of rows becomes data.eval: 10%; set the share that {size:g} is of yours")
