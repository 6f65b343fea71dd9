"""The live view of a terminal: what a folder of running training holds right now, drawn below the events."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from residency import progress
from residency.records import Event
from residency.wording import memory

SPARKS = "▁▂▃▄▅▆▇█"
WIDTH = 32
NARROWEST = 8
BESIDE_THE_CURVE = 72
"""Columns that the names, the numbers and a word on how it ended take."""
REFRESHES_PER_SECOND = 2
MOST_ROWS = 12
BEST = "the best so far"
"""The fate of a candidate that others have yet to beat."""


@dataclass(slots=True)
class Curve:
    """One metrics.jsonl, read on as it grows."""

    file: Path
    read_bytes: int = 0
    losses: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    forgetting: float | None = None
    """Nats per token from the base on general prompts, when it was last measured."""
    step: int = 0
    tokens_per_second: float = 0.0

    def read_on(self) -> None:
        with self.file.open("rb") as file:
            if self.file.stat().st_size < self.read_bytes:  # a resumed run forgets what it will measure again
                self.read_bytes, self.losses, self.held_out = 0, [], []
            file.seek(self.read_bytes)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.read_bytes += len(line)
                self.note(json.loads(line))

    def note(self, metric: dict[str, Any]) -> None:
        if metric["split"] == "eval":
            self.held_out.append(metric["loss"])
        elif metric["split"] == "anchors":
            self.forgetting = metric["loss"]
        elif metric["split"] == "train":  # the other lines are the replay's
            self.step = metric["step"]
            self.losses.append(metric["loss"])
            self.tokens_per_second = metric.get("tokens_per_second") or 0.0


@dataclass(slots=True)
class View:
    folder: Path | None = None
    curves: dict[str, Curve] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    """Of a learning-rate search, by candidate."""
    ended: dict[str, str] = field(default_factory=dict)
    """Why candidates and trials go no further."""
    compared: dict[str, float] = field(default_factory=dict)
    """Each candidate's held-out loss when it was last compared."""

    def hear(self, event: Event) -> None:
        data = event.data
        if event.kind == "run":
            self.folder = Path(data["path"])
        elif event.kind in ("range_probe", "search_resumed"):
            self.rates = data.get("rates", [])
            self.ended |= {f"search/{name}": fate for name, fate in data.get("fates", {}).items()}
            if "kept" in data:
                names = [f"candidate-{number}" for number in range(1, len(self.rates) + 1)]
                self.ended |= {f"search/{name}": "given up before" for name in names if name not in data["kept"]}
        elif event.kind == "search_cut" and "kept" in data:
            self.compared |= {f"search/{name}": loss for name, loss in data["losses"].items() if loss is not None}
            self.ended |= {f"search/{name}": f"given up: held-out loss {loss:.4f}" if loss else "given up"
                           for name, loss in data["losses"].items() if name not in data["kept"]}  # fmt: skip
        elif event.kind == "search_best":
            beaten = [name for name, why in self.ended.items() if why == BEST]
            self.ended |= dict.fromkeys(beaten, f"{data['learning_rate']:.2g} did better")
            self.ended[self.candidate(data["learning_rate"])] = BEST
        elif event.kind in ("candidate_lost", "search_cut"):
            self.ended[self.candidate(data["learning_rate"])] = event.message.partition(": ")[2]
        elif event.kind == "search":
            self.ended[self.candidate(data["learning_rate"])] = "chosen"
        elif event.kind == "trial":
            self.ended[f"trials/{data['number']}"] = data["why"] or data["state"]
        elif event.kind == "trial_again":
            self.ended[f"trials/{data['number']}"] = "interrupted"

    def candidate(self, rate: float) -> str:
        return f"search/candidate-{self.rates.index(rate) + 1 if rate in self.rates else 0}"

    def refresh(self) -> None:
        """What cannot be read at this moment is read at the next."""
        if self.folder is None:
            return
        for file in [self.folder / "metrics.jsonl", *sorted(self.folder.glob("*/*/metrics.jsonl"), key=in_order)]:
            if file.is_file():
                name = str(file.parent.relative_to(self.folder))
                with suppress(OSError, ValueError, KeyError):
                    self.curves.setdefault(name, Curve(file)).read_on()
                    if name not in self.ended and (trial := file.parent / "trial.json").is_file():  # of a call before
                        ended = json.loads(trial.read_bytes())
                        self.ended[name] = ended.get("why") or ended["state"]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Where a terminal is narrow, the curves are short and how it ended is cut off; the numbers never are."""
        self.refresh()
        shown = {name: curve for name, curve in self.curves.items() if curve.losses}
        going = {name: curve for name, curve in shown.items() if name not in self.ended}
        rest = {name: curve for name, curve in shown.items() if name in self.ended}
        rows = [*going.items(), *list(rest.items())[-max(0, MOST_ROWS - len(going)) :]]
        if not rows:
            yield Text(self.state(), style="dim")
            return
        width = max(NARROWEST, min(WIDTH, options.max_width - BESIDE_THE_CURVE))
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for column in ("", "loss"):
            table.add_column(column, no_wrap=True)
        for column in ("now", "held out", "step", "tokens/s"):
            table.add_column(column, no_wrap=True, justify="right")
        table.add_column()  # the only one that gives way
        for name, curve in rows:
            over, lowest = name in self.ended, min(curve.held_out, default=self.compared.get(name))
            held_out = "" if lowest is None else f"{lowest:.3f}"
            speed = "" if over else f"{curve.tokens_per_second:,.0f}"
            ended = Text(self.ended.get(name, ""), no_wrap=True, overflow="ellipsis")
            table.add_row(self.label(name), sparkline(curve.losses, width), f"{curve.losses[-1]:.3f}", held_out,
                          str(curve.step), speed, ended, style="dim" if over else "")  # fmt: skip
        yield table
        yield Text(self.state(), style="dim")

    def state(self) -> str:
        """Memory, and what training has made the model forget so far."""
        forgetting = self.curves["."].forgetting if "." in self.curves else None
        return state_of_memory() + ("" if forgetting is None else f", forgetting {forgetting:.3f} nats per token")

    def label(self, name: str) -> str:
        number = re.search(r"\d+$", name)
        if name.startswith("search/") and number and int(number[0]) <= len(self.rates):
            return f"rate {self.rates[int(number[0]) - 1]:.2g}"
        return "training" if name == "." else name.replace("trials/", "trial ")


def in_order(file: Path) -> tuple[int, str]:
    number = re.search(r"\d+$", file.parent.name)
    return int(number[0]) if number else 0, file.parent.name


def sparkline(values: Sequence[float], width: int = WIDTH) -> str:
    """Means of equal parts of the values, the lowest as the lowest block."""
    count = min(width, len(values))
    bounds = [len(values) * place // count for place in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(bounds)]
    low, high = min(means), max(means)
    heights = [(mean - low) / (high - low) if high > low else 0.0 for mean in means]
    return "".join(SPARKS[round(height * (len(SPARKS) - 1))] for height in heights)


def state_of_memory() -> str:
    """This process's, and the GPU's where torch uses one; torch is not loaded for it."""
    said = f"memory {memory(psutil.Process().memory_info().rss)}"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        said += f", GPU {memory(torch.cuda.max_memory_allocated())} at most"
    return said


@contextmanager
def live_view(listener: Callable[[Event], None], folder: Path | None = None) -> Iterator[Callable[[Event], None]]:
    """Yields the listener to use: in a terminal one that keeps the view below the events, else the one given."""
    if not progress.enabled:
        yield listener
        return
    view = View(folder)

    def hear(event: Event) -> None:
        view.hear(event)
        listener(event)

    with (
        progress.inside_a_view() as bars,
        Live(
            Group(view, bars), console=progress.console, transient=True, refresh_per_second=REFRESHES_PER_SECOND,
            redirect_stdout=False, redirect_stderr=False,
        ),
    ):  # fmt: skip
        yield hear
