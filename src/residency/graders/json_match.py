"""Whether two JSON texts mean the same, as a whole and field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

NOT_JSON: Any = object()
MISSING: Any = object()


def parse(text: str) -> Any:
    """The JSON value, or NOT_JSON; NaN and Infinity are not JSON."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return NOT_JSON


def is_json(text: str) -> bool:
    return parse(text) is not NOT_JSON


def json_match(output: str, reference: str) -> bool:
    """True where both are JSON and equal: key order and 1 against 1.0 make no difference, true against 1 does."""
    left, right = parse(output), parse(reference)
    return left is not NOT_JSON and right is not NOT_JSON and equal(left, right)


def share_of_equal_fields(output: str, reference: str) -> float:
    """Equal fields over the fields that either side has."""
    scores = field_scores(output, reference)
    return sum(scores.values()) / len(scores)


def field_scores(output: str, reference: str) -> dict[str, bool]:
    """For each field of either side, whether both have it and agree.

    Nested objects count by their innermost fields (`slots.area`); a list is one field, and so is a whole text that
    is no object (named ""). An output that is not JSON has every field of the reference wrong.
    """
    left, right = parse(output), parse(reference)
    return dict(_compare("", MISSING if left is NOT_JSON else left, right))


def equal(left: Any, right: Any) -> bool:
    """JSON equality: Python's, but for true and false, which are no numbers."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    return bool(left == right)


def _compare(path: str, left: Any, right: Any) -> Iterator[tuple[str, bool]]:
    objects = [side for side in (right, left) if isinstance(side, dict) and side]
    if not objects:
        yield path, equal(left, right)
        return
    for key in dict.fromkeys(key for side in objects for key in side):
        yield from _compare(_join(path, key), _get(left, key), _get(right, key))


def _get(side: Any, key: str) -> Any:
    return side.get(key, MISSING) if isinstance(side, dict) else MISSING


def _join(path: str, key: str) -> str:
    name = json.dumps(key, ensure_ascii=False) if "." in key or not key else key
    return f"{path}.{name}" if path else name


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
