"""From another tool's config file to a run file of the same meaning, with what became of every key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from residency.config.load import parse_run
from residency.config.yaml_file import LARGEST_BYTES
from residency.errors import ConfigError
from residency.importers.axolotl import read_axolotl
from residency.importers.ledger import Ledger, Note
from residency.importers.llama_factory import read_llama_factory
from residency.importers.llama_factory_v1 import read_llama_factory_v1
from residency.importers.sources import Places

SECTIONS = ("model", "data", "method", "adapter", "train", "retention", "speed")


@dataclass(frozen=True, slots=True)
class Imported:
    tool: str
    run: dict[str, Any]
    """A valid run file's values."""
    notes: list[Note]


def import_config(path: Path, out: Path) -> Imported:
    """Reads `path`; file names in the result are meant from the folder of `out`, which is not written.

    Raises ConfigError with every reason why there can be no run of the same meaning.
    """
    theirs = read_theirs(path)
    ledger = reader_of(theirs, path)(theirs, Places(path.parent, out.parent))
    if ledger.refusals:
        raise ConfigError(f"{path} cannot be imported from {ledger.tool}", problems=ledger.refusals, param=str(path),
                          code="not_importable", hint="nothing was written; mend what is named, or leave it to "
                          f"{ledger.tool}")  # fmt: skip
    sections = {name: ledger.run[name] for name in SECTIONS if name in ledger.run}
    run = {"name": run_name(path.stem), **sections}
    parse_run(run, source=f"{path}, read as a run file")
    return Imported(ledger.tool, run, ledger.notes)


def read_theirs(path: Path) -> dict[str, Any]:
    """As PyYAML reads it, as their tools do: YAML 1.1, with aliases. Raises ConfigError."""
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise ConfigError(f"{path} is too large for a config", param=str(path), hint="is it the data file?")
        value = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}", param=str(path), hint="name the other tool's YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", param=str(path), hint="name a YAML file") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML: {reason}", param=str(path), hint="mend it first") from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{path} holds no keys", param=str(path), hint="name a training config")
    return value


def reader_of(theirs: Mapping[str, Any], path: Path) -> Callable[[Mapping[str, Any], Places], Ledger]:
    """By the key that names the model. Raises ConfigError where no known tool's does."""
    if "base_model" in theirs:
        return read_axolotl
    if "model_name_or_path" in theirs and "dataset_name" not in theirs:  # that one is TRL's
        return read_llama_factory
    if "model" in theirs and "train_dataset" in theirs:
        return read_llama_factory_v1
    if {"model", "data"} <= theirs.keys():
        raise ConfigError(
            f"{path} looks like a run file of ours", param=str(path), hint="residency train takes it as it is"
        )
    raise ConfigError(
        f"{path} is no training config of Axolotl (it has no base_model) or LLaMA-Factory (no model_name_or_path)",
        param=str(path), code="not_importable",
        hint="configs of other tools are not read; a minimal run file has `model: {id: ...}` and `data: {train: ...}`",
    )  # fmt: skip


def run_name(stem: str) -> str:
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in stem)
    return kept.lstrip("._-")[:100] or "run"


def as_yaml(imported: Imported, source: str) -> str:
    """The run file, headed by where it comes from and what is not the same."""
    lines = [f"# Imported from {source} ({imported.tool}) by `residency import`."]
    for kind, title in (("to_do", "To do before the run"), ("differs", "Different here"), ("left_out", "Not here")):
        notes = [note for note in imported.notes if note.kind == kind]
        lines += [f"# {title}:"] if notes else []
        lines += [f"#   {note.key}: {' '.join(note.text.split())}" for note in notes]
    body = yaml.safe_dump(imported.run, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    return "\n".join(lines) + "\n" + body
