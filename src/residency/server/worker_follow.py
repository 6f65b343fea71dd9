"""What a run folder says of a training, as it grows: each step once and each message once, whoever reads it.

A trainer that goes on from a checkpoint takes the metrics after it back and measures those steps again, to the same
values. What was told of them stays told: the worker notes how far that is in the job's row.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from residency.config.model import Train
from residency.config.section import Final
from residency.config.steps import is_due, total_steps
from residency.records import RunFolder


@dataclass(frozen=True, slots=True)
class Plan:
    """What the trainer resolved before its first step."""

    settings: Train[Final]
    reasons: dict[str, str]
    rows: int
    """Training rows."""
    held_out: int
    adapter: str
    """`lora`, `qlora`, `full` ..."""

    @property
    def steps(self) -> int:
        return total_steps(self.settings, self.rows)

    def measured_at(self, step: int) -> bool:
        """Whether the held-out loss follows after `step`."""
        if not self.held_out:
            return False
        due = is_due(self.settings.eval_every_steps, step, self.settings.batch_size, self.rows)
        return due or step == self.steps

    def ends_epoch(self, step: int) -> bool:
        return is_due("epoch", step, self.settings.batch_size, self.rows)


def read_plan(run: RunFolder) -> Plan | None:
    """None until the trainer has come that far; `audit.json` is what it writes last of these."""
    try:
        counts = json.loads((run / "audit.json").read_bytes())["rows"]
        resolved = json.loads((run / "resolved.json").read_bytes())
    except FileNotFoundError:
        return None
    config = resolved["config"]
    settings = Train[Final].model_validate(config["train"])
    return Plan(settings, resolved["reasons"], counts["train"], counts["eval"], config["adapter"]["kind"])


class GrowingFile:
    """The whole lines of a file that another process writes. One that was replaced is read again from its start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inode, self.offset = 0, 0

    def new_lines(self) -> list[dict[str, Any]]:
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            stat = os.fstat(file.fileno())
            if stat.st_ino != self.inode or stat.st_size < self.offset:
                self.inode, self.offset = stat.st_ino, 0
            file.seek(self.offset)
            whole, _, _ = file.read().rpartition(b"\n")
        self.offset += len(whole) + bool(whole)
        return [json.loads(line) for line in whole.splitlines() if line]


@dataclass(slots=True)
class Step:
    """The metrics of one optimizer step: its training loss and, where it was measured, the held-out loss after it."""

    train: dict[str, Any]
    held_out: dict[str, Any] | None = None


class Follower:
    """Reads one run; a new one begins at the start of its files."""

    def __init__(self, run: RunFolder) -> None:
        self.metrics = GrowingFile(run / "metrics.jsonl")
        self.messages = GrowingFile(run / "events.jsonl")
        self.read = 0
        self.steps: dict[int, Step] = {}

    def new_steps(self, told: int, plan: Plan, *, over: bool) -> list[Step]:
        """The steps after step `told` of which all is known; with `over` nothing more will come of the last one."""
        for row in self.metrics.new_lines():
            step = row["step"]
            if row["split"] == "train":
                self.steps[step] = Step(row)
            elif row["split"] == "eval" and step in self.steps:
                self.steps[step].held_out = row
        newest = max(self.steps, default=0)
        self.steps = {step: found for step, found in self.steps.items() if step > told}
        return [
            found
            for step, found in sorted(self.steps.items())
            if over or found.held_out or step < newest or not plan.measured_at(step)
        ]

    def new_messages(self, told: int) -> list[dict[str, Any]]:
        """The run's own events after the first `told` of them."""
        fresh = self.messages.new_lines()
        before, self.read = self.read, self.read + len(fresh)
        return fresh[max(told - before, 0) :]
