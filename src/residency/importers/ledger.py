"""What becomes of each key of another tool's config: the run file that grows, and a note for every key."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple, TypeAlias

from residency.config.problems import shown

Kind: TypeAlias = Literal["carried", "differs", "to_do", "left_out", "no_effect"]
"""carried: the same here · differs: here, but not quite · to_do: yours to do before the run · left_out: not here ·
no_effect: says nothing about the result."""


class Note(NamedTuple):
    kind: Kind
    key: str
    """Their key."""
    text: str


class Ledger:
    """Their keys are taken one by one; `close` names those that nobody took."""

    def __init__(self, theirs: Mapping[str, Any], tool: str) -> None:
        self.tool = tool
        self.theirs = theirs
        self.left = dict(theirs)
        self.run: dict[str, dict[str, Any]] = {"data": {}, "method": {"name": "sft"}}
        self.notes: list[Note] = []
        self.refusals: list[str] = []
        """Why there can be no run of the same meaning, each "key: reason"."""

    def take(self, key: str) -> Any:
        """The value, and the key counts as seen to; None where it is absent or empty."""
        if key not in self.left:
            return None
        value = self.left.pop(key)
        if value is None:
            self.note("no_effect", key, "is empty")
        return value

    def number(self, key: str) -> float | None:
        value = self.take(key)
        if isinstance(value, str):  # PyYAML reads 1e-4 as text
            with contextlib.suppress(ValueError):
                value = float(value)
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return value
        self.refuse(key, f"must be a number (got {shown(value)})")
        return None

    def whole(self, key: str) -> int | None:
        value = self.number(key)
        if value is None or value == int(value):
            return None if value is None else int(value)
        self.refuse(key, f"must be a whole number (got {value:g})")
        return None

    def put(self, path: str, value: Any) -> None:
        section, key = path.split(".")
        self.run.setdefault(section, {})[key] = value

    def carry(self, key: str, path: str, value: Any, *, default: bool = False) -> None:
        """The same meaning here. `default`: they leave the key out, and their tool takes this value."""
        self.put(path, value)
        said = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        self.note("carried", key, f"{path}: {said}" + (f" ({self.tool}'s default)" if default else ""))

    def note(self, kind: Kind, key: str, text: str) -> None:
        self.notes.append(Note(kind, key, text))

    def refuse(self, key: str, reason: str) -> None:
        self.refusals.append(f"{key}: {reason}")

    def close(self, no_effect: Mapping[str, str], left_out: Mapping[str, str], known: Iterable[str]) -> None:
        """Names what is left by two tables (key: reason); a key in neither is unknown. `known` is for near misses."""
        for key in list(self.left):
            value = self.take(key)
            if value is None:
                continue
            if key in no_effect:
                self.note("no_effect", key, no_effect[key])
            elif key in left_out and is_off(value):
                self.note("no_effect", key, "is off")
            elif key in left_out:
                self.note("left_out", key, left_out[key])
            else:
                near = get_close_matches(key, [*no_effect, *left_out, *known], 1, cutoff=0.75)
                meant = f"; {near[0]} is meant?" if near else ""
                self.note("left_out", key, f"is no key that this importer knows, and nothing was done with it{meant}")
        named = {key.partition(":")[0] for note in self.notes for key in note.key.split(", ")}
        for key in self.theirs.keys() - named:
            if is_off(self.theirs[key]):
                self.note("no_effect", key, "is off")
            else:
                self.note("left_out", key, "means nothing beside the other keys")


def is_off(value: Any) -> bool:
    return value in (False, 0, "", "no", "none") or value == [] or value == {}
