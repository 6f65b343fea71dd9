"""From a run file to a RunConfig, with everything that is wrong said at once.

Paths: a relative path in the run file is meant from the run file's folder, one in an override from the current folder.
A name that is no path stays as it is: a Hub id, `hub:...`, a share such as `10%`, a template's name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from residency.config.model import RunConfig
from residency.config.problems import describe, invalid
from residency.config.yaml_file import parse_yaml, read_yaml
from residency.errors import ConfigError

S = TypeVar("S", bound=BaseModel)


def load_run(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a run file and applies overrides such as `train.epochs=1`, whose values are YAML.

    Raises ConfigError with all problems, each as "path: reason".
    """
    values = read_yaml(path)
    place_paths(values, path.parent)
    for override in overrides:
        merge(values, read_override(override))
    return parse_run(values, source=str(path))


def parse_run(values: Mapping[str, Any], source: str = "the run") -> RunConfig:
    """Checks values from anywhere; `source` names them in the ConfigError."""
    values = dict(values)
    for section, key, default in (("adapter", "kind", "lora"), ("method", "name", "sft")):
        if isinstance(values.get(section), Mapping):
            values[section] = {key: default, **values[section]}
    return parse(RunConfig, values, source)


def parse(section: type[S], values: Mapping[str, Any], source: str) -> S:
    """Raises ConfigError with all problems, each as "path: reason"."""
    try:
        parsed = section.model_validate(values)
    except ValidationError as error:
        raise invalid(source, describe(error, values, field_paths(section))) from error
    if problems := numbers_from_booleans(values, parsed.model_dump()):
        raise invalid(source, problems)
    return parsed


def numbers_from_booleans(given: Any, taken: Any, path: str = "") -> list[str]:
    """pydantic would take `true` for 1."""
    if isinstance(given, bool) and not isinstance(taken, bool):
        return [f"{path}: must be a number (got {str(given).lower()})"]
    pairs: list[tuple[str, Any, Any]] = []
    if isinstance(given, Mapping) and isinstance(taken, Mapping):
        pairs = [(key, given[key], taken[key]) for key in given if key in taken]
    elif isinstance(given, list) and isinstance(taken, list | tuple):
        pairs = [(str(i), *both) for i, both in enumerate(zip(given, taken, strict=False))]
    return [p for key, a, b in pairs for p in numbers_from_booleans(a, b, f"{path}.{key}".lstrip("."))]


def read_override(override: str) -> dict[str, Any]:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(
            f"--set {override}: is not of the form path=value", hint="for example --set train.epochs=1", param="--set"
        )
    value = parse_yaml(text, f"--set {override}")
    for key in reversed(keys):
        value = {key: value}
    place_paths(value, Path.cwd())
    return dict(value)


def merge(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(values.get(key), dict):
            merge(values[key], value)
        else:
            values[key] = value


def place_paths(values: dict[str, Any], folder: Path) -> None:
    """Makes the relative paths absolute, in place; anything of a wrong type is left for the checks."""

    def section(name: str, within: Any = values) -> dict[str, Any]:
        found = within.get(name)
        return found if isinstance(found, dict) else {}

    model, data, tests = section("model"), section("data"), section("more_tests", section("eval"))
    for holder, key in [(data, "train"), (data, "test"), *((tests, name) for name in tests)]:
        if isinstance(holder.get(key), str) and not holder[key].startswith("hub:"):
            holder[key] = absolute(holder[key], folder)
    if isinstance(data.get("eval"), str) and not re.fullmatch(r"\s*[-+.\d]+\s*%?\s*|hub:.*", data["eval"]):
        data["eval"] = absolute(data["eval"], folder)
    # A model or template is a path where it looks like one or is there; else it is a name.
    for key, is_there in (("id", Path.is_dir), ("chat_template", Path.is_file)):
        name = model.get(key)
        if isinstance(name, str) and name and (name[0] in "./~" or is_there(folder / name)):
            model[key] = absolute(name, folder)


def absolute(path: str, folder: Path) -> str:
    return os.path.abspath(folder / Path(path).expanduser()) if path else path


def field_paths(section: type[BaseModel] = RunConfig) -> list[str]:
    """Every key a run file may have, as dotted paths, in the order of the sections; lists and dicts are one key."""
    return list(dict.fromkeys(paths_of(section)))


def paths_of(section: type[BaseModel], prefix: str = "") -> list[str]:
    paths = []
    for name, field in section.model_fields.items():
        inner = [path for part in sections_in(field.annotation) for path in paths_of(part, f"{prefix}{name}.")]
        paths += inner or [f"{prefix}{name}"]
    return paths


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType):
        return [section for part in get_args(annotation) for section in sections_in(part)]
    return []


def json_schema() -> dict[str, Any]:
    """The JSON schema of a run file, with the fields' help."""
    return RunConfig.model_json_schema()
