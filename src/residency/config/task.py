"""The task file of `residency advise`: solved examples of a task, and how an answer to it is judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from residency.config.graders import Grader
from residency.config.load import absolute, merge, parse, place_paths
from residency.config.model import AUTO, Model
from residency.config.section import Section
from residency.config.yaml_file import parse_yaml, read_yaml
from residency.errors import ConfigError

YAML = (".yaml", ".yml")


class Task(Section):
    name: str = Field(default="task", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """The advice's folder, and the name of the proposed run."""
    model: Model = Model(id="smollm2-135m")
    """The model that is measured, and that the proposed run trains."""
    examples: str = Field(min_length=1)
    """Solved examples: JSONL, JSON, CSV or Parquet, or `hub:org/name[:split]`, in any format that trains."""
    graders: list[Grader] | Literal["auto"] = AUTO
    """How an answer is judged; the first that says right or wrong decides. `auto` looks at the reference answers."""
    instructions: list[str] = Field(default_factory=list)
    """Your own wordings of the instruction, tried beside ours."""
    context: str = "context"
    """The field of a row that holds the text in which the answer can be found, where rows have one."""
    target: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """The share of right answers that would be good enough."""
    max_new_tokens: Annotated[int, Field(ge=1)] | Literal["auto"] = AUTO
    """Longest generated answer; `auto` allows a quarter more than the longest reference answer."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Answers generated at once."""
    seed: int = 0
    """Fixes the split, the worked examples and the samples."""


def load_task(source: str, overrides: Sequence[str] = (), model: str | None = None) -> Task:
    """A task file, or the task of a lone file of examples. Raises ConfigError with all problems.

    Relative paths are meant from the task file's folder, those in overrides from the current one.
    """
    path = Path(source)
    if path.suffix in YAML:
        values: dict[str, Any] = read_yaml(path, "task")
        place(values, path.parent)
    else:
        values = {"name": _name(path.stem), "examples": source}
        place(values, Path.cwd())
    changes = [_read_override(override) for override in overrides]
    if model:
        changes.append({"model": {"id": model}})
    for change in changes:
        place(change, Path.cwd())
        merge(values, change)
    return parse(Task, values, source)


def place(values: dict[str, Any], folder: Path) -> None:
    place_paths(values, folder)
    examples = values.get("examples")
    if isinstance(examples, str) and not examples.startswith("hub:"):
        values["examples"] = absolute(examples, folder)


def _read_override(override: str) -> dict[str, Any]:
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"--set {override}: is not of the form path=value", hint="for example --set target=0.95",
                          param="--set")  # fmt: skip
    value = parse_yaml(text, f"--set {override}")
    for key in reversed(path.strip().split(".")):
        value = {key: value}
    return dict(value)


def _name(stem: str) -> str:
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in stem).strip("-")
    return kept or "task"
