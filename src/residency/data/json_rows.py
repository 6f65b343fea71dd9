"""JSON as strict as rows need it: what Python's parser lets pass but no trainer can use is named."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

NOT_SPACE = re.compile(r"[^ \t\n\r]")
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class JsonRow(NamedTuple):
    value: Any
    problem: str | None


class _Parser:
    """Python's decoder, with hooks that note what is wrong in the row at hand."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant, parse_float=self._float
        )

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            keys = [key for key, _ in pairs]
            self.notes.append(f'has the key "{next(key for key in keys if keys.count(key) > 1)}" twice')
        return value

    def _constant(self, name: str) -> None:
        self.notes.append(f"contains {name}, which is not JSON")

    def _float(self, text: str) -> float:
        value = float(text)
        if math.isinf(value):
            self.notes.append(f"contains the number {text[:40]}, which is too large")
        return value

    def parse(self, text: str, start: int) -> tuple[JsonRow, int]:
        """The value at `start` and where it ends; after invalid JSON the end is -1."""
        self.notes.clear()
        try:
            value, end = self.decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            return JsonRow(None, _syntax_problem(error)), -1
        except RecursionError:
            return JsonRow(None, "is nested too deeply"), -1
        except ValueError as error:  # an integer of more digits than Python converts
            return JsonRow(None, f"is not usable JSON: {error}"), -1
        if SURROGATE.search(text, start, end) and not _encodable(value):
            self.notes.append("contains half of a surrogate pair (\\ud800 to \\udfff), which is no character")
        return JsonRow(value, self.notes[0] if self.notes else None), end


def _syntax_problem(error: json.JSONDecodeError) -> str:
    place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
    return f"is not valid JSON: {error.msg.removesuffix(' at')} at {place}"


def _encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_json(text: str) -> JsonRow:
    """One JSON value, with nothing before or behind it but white space."""
    row, end = _Parser().parse(text, _skip_space(text, 0))
    if end >= 0 and _skip_space(text, end) != len(text):
        return JsonRow(None, f"is not valid JSON: more text after the value, from column {end + 1}")
    return row


def parse_array(text: str) -> Iterator[tuple[int, JsonRow]]:
    """The elements of the array `text` with their numbers from 1; the first syntax error is the last element."""
    parser = _Parser()
    position, number = _skip_space(text, 1), 0
    while text[position : position + 1] != "]" or number:
        number += 1
        row, end = parser.parse(text, position)
        yield number, row
        if end < 0:
            return
        position = _skip_space(text, end)
        separator = text[position : position + 1]
        if separator == "]":
            break
        if separator != ",":
            yield (
                number,
                JsonRow(None, "is followed by neither a comma nor the array's end; the file is cut off or damaged"),
            )
            return
        position = _skip_space(text, position + 1)
    if _skip_space(text, position + 1) != len(text):
        yield number, JsonRow(None, "is the array's last row, but more text follows the array")


def _skip_space(text: str, start: int) -> int:
    match = NOT_SPACE.search(text, start)
    return match.start() if match else len(text)
