"""Where their rows lie, and how ours are named: a path from the run file's folder, or `hub:org/name[:split]`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from residency.data.sources import READERS
from residency.importers.ledger import Ledger

QUANTISED = re.compile(r"gptq|awq|aqlm|nvfp4|(int|bnb-?|w)[48]|[48]-?bit", re.IGNORECASE)
"""How names of models tell that the weights are quantised already."""


@dataclass(frozen=True, slots=True)
class Places:
    config: Path
    """The folder of their config."""
    out: Path
    """The folder that the run file will stand in."""

    def find(self, path: Any) -> Path | None:
        """Their paths are meant from where the tool was started, which the config does not say: the current folder,
        the config's, or one above it."""
        if not isinstance(path, str) or not path:
            return None
        for folder in (Path.cwd(), self.config, *self.config.resolve().parents):
            if os.path.exists(
                folder / path
            ):  # unlike Path.exists it takes a name that is too long for one that is not there
                return folder / path
        return None

    def ours(self, path: Path) -> str:
        return os.path.relpath(path, self.out)


def put_model_id(ledger: Ledger, key: str, model: str, places: Places) -> None:
    local = places.find(model)
    ledger.carry(key, "model.id", places.ours(local) if local and local.is_dir() else model)
    if QUANTISED.search(model):
        ledger.note("to_do", key, "by its name this model is quantised already; name the one it was made of in "
                    "model.id (adapter.kind: qlora holds it in 4 bits)")  # fmt: skip


def is_rows(path: str) -> bool:
    return Path(path).suffix.lower() in READERS


def hub(name: str, split: str | None = None) -> tuple[str, str | None]:
    """Our name of a Hub dataset, and what of the split cannot be said in it: a slice such as `train[:10%]`."""
    whole, bracket, rest = (split or "train").partition("[")
    return f"hub:{name}" + (f":{whole}" if whole and whole != "train" else ""), bracket + rest or None
