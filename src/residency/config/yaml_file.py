"""Reads YAML the way people mean it: `no` and `010` are text, `1e-4` is a number, a key stands once.

PyYAML follows YAML 1.1; the scalars here are those of YAML 1.2's core schema (yaml.org/spec/1.2.2, section 10.3.2).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import yaml

from residency.errors import ConfigError

LARGEST_BYTES = 1_000_000


class Loader(yaml.SafeLoader):
    """Safe YAML with 1.2 scalars; refuses repeated keys, keys that are not text, and aliases."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML's own way to replace them

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            alias = self.get_event()  # type: ignore[no-untyped-call]
            problem = f"aliases (*{alias.anchor}) are not used here: write it out"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=alias.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                problem = f"the key {key.value!r} is not text: put it in quotes"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is repeated", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for tag, pattern, first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
     list("-+.0123456789")),
):  # fmt: skip
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^({pattern})$"), first)


NEEDED = {"run": "model.id and data.train", "sweep": "run and fields", "task": "examples"}
"""What each kind of file cannot do without."""
ROWS = (".jsonl", ".csv", ".tsv", ".parquet")


def read_yaml(path: Path, kind: Literal["run", "sweep", "task"] = "run") -> dict[str, Any]:
    """The file's top-level mapping. Raises ConfigError with line and column."""
    try:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder", hint=f"name the {kind} file inside it", param=str(path))
        if path.suffix in ROWS and path.exists():
            raise ConfigError(f"{path} holds rows and is no {kind} file", param=str(path),
                              hint=f"write a YAML file that names it; it needs at least {NEEDED[kind]}")  # fmt: skip
        if path.stat().st_size > LARGEST_BYTES:
            raise ConfigError(f"{path} is too large for a {kind} file", hint="is it the data file?", param=str(path))
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"there is no file {path}", hint=f"name an existing {kind} file, such as {kind}.yaml", param=str(path)
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not UTF-8 text (byte {error.start + 1})", hint="save it as UTF-8", param=str(path)
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", param=str(path)) from None
    value = parse_yaml(text, str(path))
    if value is None:
        raise ConfigError(f"{path} is empty", hint=f"it needs at least {NEEDED[kind]}", param=str(path))
    if not isinstance(value, dict):
        found = "a list" if isinstance(value, list) else "a single value"
        hint = f"write keys, at least {NEEDED[kind]}"
        raise ConfigError(f"{path} holds {found} instead of keys", hint=hint, param=str(path))
    return value


def parse_yaml(text: str, source: str) -> Any:
    """One YAML document. Raises ConfigError; `source` names it there."""
    try:
        return yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{source}{place}: {reason}", param=source) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(error).split())}", param=source) from None
    except (RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(f"{source}: {reason}", param=source) from None
