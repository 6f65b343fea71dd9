"""Imports a config written as YAML text, as a user would have it in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from residency.config.load import load_run
from residency.errors import ConfigError
from residency.importers.read import Imported, as_yaml, import_config

AXOLOTL = """
base_model: org/base
datasets: [{path: org/rows, type: chat_template}]
learning_rate: 2e-5
"""
LLAMA_FACTORY = """
model_name_or_path: org/base
do_train: true
dataset: mine
dataset_dir: {mine: {file_name: mine.json}}
"""


def imported(folder: Path, text: str) -> Imported:
    """The run file must load; every key of theirs must have a note."""
    config, out = folder / "theirs.yaml", folder / "run.yaml"
    config.write_text(text, encoding="utf-8")
    found = import_config(config, out)
    out.write_text(as_yaml(found, config.name), encoding="utf-8")
    assert load_run(out).name == "theirs"
    return found


def refused(folder: Path, text: str) -> list[str]:
    config = folder / "theirs.yaml"
    config.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        import_config(config, folder / "run.yaml")
    assert caught.value.hint
    return caught.value.problems or [caught.value.message]


def kinds(found: Imported) -> dict[str, str]:
    """What became of each key; where there are several notes, the one that asks for most."""
    order = ("no_effect", "carried", "left_out", "differs", "to_do")
    most: dict[str, str] = {}
    for note in found.notes:
        for key in note.key.split(", "):
            most[key] = max(most.get(key, "no_effect"), note.kind, key=order.index)
    return most


def note(found: Imported, key: str) -> str:
    return " ".join(one.text for one in found.notes if key in one.key.split(", "))


def section(found: Imported, name: str) -> dict[str, Any]:
    return dict(found.run[name])
