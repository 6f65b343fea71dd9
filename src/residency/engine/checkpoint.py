"""Checkpoints that are whole or absent: written aside, checksummed, renamed; a damaged one is recognised.

checkpoints/
  step-000050/   adapter or weights, optimizer.safetensors, progress.json, manifest.json (a SHA-256 of each file)
  best-000040/   the weights alone of the best held-out loss so far
  damaged-*/     what was found damaged; nothing reads it again
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import Field, TypeAdapter, ValidationError

from residency import durable
from residency.errors import ResourceError
from residency.records import Record, RunFolder

MANIFEST = "manifest.json"
MANIFEST_FORMAT = TypeAdapter(dict[str, str])
PROGRESS = "progress.json"


class Progress(Record):
    """Where training stands, beside the tensors."""

    step: int = 0
    """Optimizer steps done; the order of the rows follows from it and the seed."""
    tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0
    micro_batch_tokens: int
    first_loss: float | None = None
    recent_losses: tuple[float, ...] = ()
    best_step: int | None = None
    best_loss: float | None = None
    measurements_since_best: int = 0
    loss_since_measured: float = 0.0
    """Summed training loss of the steps since the last measurement, in nats."""
    tokens_since_measured: int = 0
    correct_since_measured: int = 0
    held_out_losses: tuple[float, ...] = ()
    """After the first step, one a measurement."""
    overfit_measurements: int = 0
    """In a row."""
    measurements_over_budget: int = 0
    """In a row: how often more was forgotten than the run allows."""
    retention_seconds: float = 0.0
    """Of `seconds`, those that measuring forgetting took."""
    rng: dict[str, str] = Field(default_factory=dict)
    """The state of torch's random numbers, base64."""


def random_state() -> dict[str, str]:
    """Of torch's generators, by device, base64."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return {device: base64.b64encode(state.numpy().tobytes()).decode() for device, state in states.items()}


def set_random_state(states: dict[str, str]) -> None:
    for device, state in states.items():
        tensor = torch.frombuffer(bytearray(base64.b64decode(state)), dtype=torch.uint8)
        if device == "cpu":
            torch.set_rng_state(tensor)
        elif torch.cuda.is_available():
            torch.cuda.set_rng_state(tensor)


class Checkpoints:
    """`kind` is the record that stands beside the tensors."""

    def __init__(self, run: RunFolder, keep: int, kind: type[Progress] = Progress) -> None:
        self.run = run
        self.folder = run / "checkpoints"
        self.keep = keep
        self.kind = kind

    def save(self, progress: Progress, write_tensors: Callable[[Path], None]) -> Path:
        """Raises ResourceError where the disk is full; what was there before stays."""
        path = self._write(f"step-{progress.step:06d}", progress, write_tensors)
        best = progress.best_step and self._best(progress.best_step)
        for old in [*self._steps()[: -self.keep], *(p for p in self.folder.glob("best-*") if p != best)]:
            shutil.rmtree(old)
        return path

    def save_best(self, progress: Progress, write_tensors: Callable[[Path], None]) -> None:
        """Keeps the one before too until the next `save`, from which a killed run would go on."""
        self._write(self._best(progress.step).name, progress, write_tensors)

    def newest(self) -> tuple[Progress, Path] | None:
        """The newest checkpoint that is whole. A damaged one is said and set aside, and the one before it is used."""
        for path in reversed(self._steps()):
            if damage := find_damage(path):
                self._set_aside(path, damage, "the one before it is used")
                continue
            return self.kind.model_validate_json((path / PROGRESS).read_bytes()), path
        return None

    def best(self, step: int) -> Path | None:
        """The weights kept at `step`; None, and said, where they are damaged."""
        path = self._best(step)
        if damage := find_damage(path):
            self._set_aside(path, damage, "the weights of the last step are the result")
            return None
        return path

    def _best(self, step: int) -> Path:
        return self.folder / f"best-{step:06d}"

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), key=lambda path: (len(path.name), path.name))

    def _set_aside(self, path: Path, damage: str, instead: str) -> None:
        """Not deleted: a disk that fails to read today may read tomorrow."""
        self.run.say("checkpoint_damaged", f"{path.name} is damaged ({damage}); {instead}", level="warning",
                     checkpoint=path.name, damage=damage)  # fmt: skip
        if path.exists():
            aside = self.folder / f"damaged-{path.name}"
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)

    def _write(self, name: str, progress: Progress, write_tensors: Callable[[Path], None]) -> Path:
        final, aside = self.folder / name, self.folder / f".{name}.writing"
        with durable.disk_errors(final):
            self._remove_unfinished()
            aside.mkdir(parents=True)
            try:
                write_tensors(aside)
                (aside / PROGRESS).write_text(progress.model_dump_json(indent=2))
                files = sorted(path for path in aside.rglob("*") if path.is_file())
                sums = {file.relative_to(aside).as_posix(): durable.sha256(file) for file in files}
                (aside / MANIFEST).write_text(json.dumps(sums, indent=2))
                for file in [*files, aside / MANIFEST]:
                    durable.sync_file(file)
                durable.sync_folder(aside)
                if final.exists():  # left by an attempt that was killed before it could go on from it
                    shutil.rmtree(final)
                aside.rename(final)
                durable.sync_folder(self.folder)
            finally:
                self._remove_unfinished()
        return final

    def _remove_unfinished(self) -> None:
        for left in self.folder.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    if not path.is_dir():
        return "it is missing"
    try:
        sums = MANIFEST_FORMAT.validate_json((path / MANIFEST).read_bytes())
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValidationError) as error:
        return f"{MANIFEST} cannot be read: {type(error).__name__}"
    for name in sorted(sums.keys() | {PROGRESS}):
        try:
            actual = durable.sha256(path / name)
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
        if actual != sums.get(name):
            return f"{name} does not match its checksum"
    return None


def require_disk_space(folder: Path, needed_bytes: int) -> None:
    """Raises ResourceError before training where the checkpoints would not fit; a resumed run's own count as room."""
    free = shutil.disk_usage(folder).free
    there = sum(file.stat().st_size for file in (folder / "checkpoints").rglob("*") if file.is_file())
    if free + there < needed_bytes:
        raise ResourceError(
            f"the checkpoints need about {needed_bytes / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB free",
            code="disk_full",
            hint="free some space, lower train.keep_checkpoints, or choose another folder with --runs",
        )
