"""Says what is wrong with a run file, or with a request: one readable line per key, from pydantic's errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from residency.config.methods import arrives_later
from residency.errors import ConfigError
from residency.wording import counted

KINDS = {
    "bool": "true or false",
    "dict": "a section of keys",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "model": "a section of keys",
    "string": "text",
    "tuple": "a list",
}
LIMITS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def invalid(source: str, problems: list[str]) -> ConfigError:
    """`source` is what has these problems, each "path: reason"."""
    said = f"{source}: {counted(len(problems), 'problem')}"
    return ConfigError(said, problems=problems, param=problems[0].partition(":")[0])


def describe(error: ValidationError, values: Mapping[str, Any], known: Sequence[str]) -> list[str]:
    """One line per key that is wrong, "path: reason"; `known` are the paths of all keys."""
    found = by_path(error.errors(include_url=False), values)
    return [f"{path}: {reason(path, details, known)}" for path, details in found.items()]


def by_path(details: Sequence[ErrorDetails], values: Any) -> dict[str, list[ErrorDetails]]:
    """What is wrong with each key, by its dotted path; one error for each form that it might have had."""
    found: dict[str, list[ErrorDetails]] = {}
    for detail in details:
        found.setdefault(real_path(detail, values), []).append(detail)
    # Where an item inside is wrong, pydantic also blames the whole for not being `auto`.
    return {path: of for path, of in found.items() if not any(other.startswith(f"{path}.") for other in found)}


def either(details: Sequence[ErrorDetails]) -> str:
    """In pydantic's words and without the value, which may be private."""
    first, *others = dict.fromkeys(detail["msg"] for detail in details)
    return ", or ".join([first, *(what.removeprefix("Input should be ") for what in others)])


def real_path(detail: ErrorDetails, values: Any) -> str:
    """The keys of the file on the way to the error; pydantic also names the union members it tried on the way."""
    path = []
    for position, key in enumerate(detail["loc"]):
        last = position + 1 == len(detail["loc"])
        if is_key(key, values):
            values = values[key]
        elif detail["type"] != "missing" or not last:
            continue
        path.append(str(key))
    if detail["type"] in ("union_tag_invalid", "union_tag_not_found"):
        path.append(detail["ctx"]["discriminator"].strip("'"))
    return ".".join(path) or "the file"


def is_key(key: int | str, values: Any) -> bool:
    if isinstance(values, list):
        return isinstance(key, int) and key < len(values)
    return isinstance(values, Mapping) and key in values


def reason(path: str, details: list[ErrorDetails], known: Sequence[str]) -> str:
    first = details[0]
    match first["type"]:
        case "missing" | "union_tag_not_found":
            return "is required; add it"
        case "extra_forbidden":
            return unknown_key(path, known)
        case "union_tag_invalid":
            given, tags = first["ctx"]["tag"], first["ctx"]["expected_tags"].replace("'", "")
            near = get_close_matches(given.lower(), tags.split(", "), 1)
            later = arrives_later(given) if path == "method.name" else None
            more = f"; {later}" if later else f"; did you mean {near[0]}?" if near else ""
            return f"must be one of {tags} (got {shown(given)}){more}"
    # One error per union member: `a number, or auto`. What is meant as a number is not asked to be text too.
    wanted = list(dict.fromkeys(expected(detail) for detail in details))
    value = first["input"]
    quotes = "; put it in quotes" if wanted == ["text"] and not isinstance(value, list | Mapping | None) else ""
    return f"must be {', or '.join(wanted)} (got {shown(value)}{quotes})"


def expected(detail: ErrorDetails) -> str:
    kind = detail["type"]
    if kind in LIMITS:
        name, words = LIMITS[kind]
        return f"{words} {detail['ctx'][name]:g}"
    if kind == "literal_error":
        return str(detail["ctx"]["expected"]).replace("'", "")
    if kind == "string_too_short":
        return "text, not empty"
    if kind == "string_pattern_mismatch":
        return "letters, digits, '.', '_' and '-' only, 100 at most, the first a letter or digit"
    if kind == "finite_number":
        return "a finite number"
    if kind == "int_from_float":
        return "a whole number"
    if (family := kind.split("_")[0]) in KINDS:
        return KINDS[family]
    return detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")


def unknown_key(path: str, known: Sequence[str]) -> str:
    parent, _, key = path.rpartition(".")
    if path in known or any(other.startswith(f"{path}.") for other in known):
        return f"does not apply to this kind of {parent.rpartition('.')[2]}; leave it out"
    below = f"{parent}." if parent else ""
    names = sorted({other.removeprefix(below).partition(".")[0] for other in known if other.startswith(below)})
    by_name = {other.rpartition(".")[2]: other for other in reversed(known)} | {name: below + name for name in names}
    near = get_close_matches(key.lower(), by_name, 1, cutoff=0.7)
    if near:
        return f"unknown key; did you mean {by_name[near[0]]}?"
    return f"unknown key; known here: {', '.join(names)}" if names else "unknown key; leave it out"


def shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, Mapping):
        return "a section"
    if isinstance(value, list):
        return "a list"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
