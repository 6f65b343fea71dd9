"""Reads rows from files and the Hub. A row that cannot be read is yielded with its problem, never skipped.

.jsonl .ndjson    one JSON object a line
.json             an array of objects, or an object whose one list holds them
.csv .tsv         a header line, then one row each; `messages`, `conversations`, `tools`, `history` hold JSON text
.parquet          streamed by batches
.txt              one document a line (documents with line breaks of their own: JSONL rows {"text": ...})
hub:org/name      a Hub dataset's `train` split; hub:org/name:split for another
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from residency.data.json_rows import JsonRow, parse_array, parse_json
from residency.data.messages import Origin
from residency.errors import DataError
from residency.wording import counted

MAX_LINE_BYTES = 10_000_000
MAX_JSON_BYTES = 500_000_000
"""A JSON array is read whole, and takes several times its size in memory."""
MAX_GROWTH, GROWTH_FREE_BYTES = 200, 1_000_000_000
"""A Parquet file whose text is so many times the file's size, and more than this, was made to fill the memory."""
BATCH_ROWS = 100
"""Arrow holds 2 GB of nested text at once: so many rows of the length that a row may have fit."""
JSON_COLUMNS = ("messages", "conversations", "tools", "history")


@dataclass(frozen=True, slots=True)
class RawRow:
    origin: Origin
    value: Any
    """The parsed row; null where there is a problem."""
    problem: str | None = None


def read_rows(source: str) -> Iterator[RawRow]:
    """The rows of a file or Hub dataset, one by one.

    Raises DataError where the source as a whole is missing, unreadable, empty or of an unknown kind: at once where a
    look at the path tells, else while iterating.
    """
    if source.startswith("hub:"):
        return _not_empty(source, _read_hub(source))
    path = Path(source).expanduser()
    reader = READERS.get(path.suffix.lower())
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:  # a forbidden folder, a name too long
        raise DataError(f"{source[:200]!r} cannot be read: {error}", param="data", hint="check the path") from error
    if is_folder:
        raise DataError(f"{source} is a folder", param=source, hint="name the data file inside it")
    if not exists:
        hint = "check the path; it is relative to the current folder"
        raise DataError(f"{source} does not exist", param=source, hint=hint)
    if reader is None:
        raise DataError(
            f"{source} has an unknown ending {path.suffix!r}" if path.suffix else f"{source} has no ending",
            param=source,
            hint=f"rename it to one of {', '.join(READERS)}",
        )
    return _not_empty(source, _read_file(source, path, reader))


def _not_empty(source: str, rows: Iterator[RawRow]) -> Iterator[RawRow]:
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise DataError(f"{source} is empty: it has no rows", param=source)


def _read_file(source: str, path: Path, reader: Reader) -> Iterator[RawRow]:
    try:
        with path.open("rb") as file:
            yield from reader(source, file)
    except OSError as error:
        raise DataError(
            f"{source} cannot be read: {error.strerror or error}",
            param=source,
            hint="check that the file is whole and that you may read it",
        ) from error


def _lines(source: str, file: BinaryIO) -> Iterator[tuple[int, str, str | None]]:
    """Yields (line number, text, problem); holds one line at a time, and never more than MAX_LINE_BYTES of it."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if number == 1:
            _refuse_utf16(source, line)
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, "", f"is longer than {MAX_LINE_BYTES // 1_000_000} MB"
        elif b"\0" in line:
            yield number, "", "contains a null byte; the file is damaged or not UTF-8 text"
        else:
            try:
                yield number, line.decode(), None
            except UnicodeDecodeError as error:
                yield number, "", encoding_problem(error)


def encoding_problem(error: UnicodeDecodeError) -> str:
    byte = error.object[error.start]
    return f"is not UTF-8 (byte 0x{byte:02x} at position {error.start + 1}); save the file as UTF-8"


def _refuse_utf16(source: str, start: bytes) -> None:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{source}:1: is UTF-16, not UTF-8", param=source, hint="save the file as UTF-8")


def _read_jsonl(source: str, file: BinaryIO) -> Iterator[RawRow]:
    first = True
    for number, text, problem in _lines(source, file):
        origin = Origin(source, number)
        if problem:
            yield RawRow(origin, None, problem)
        elif stripped := text.strip():
            if first and stripped in ("[", "{"):
                raise DataError(
                    f"{source} holds JSON that is spread over several lines",
                    param=source,
                    hint="JSONL has one object a line; name a file with one JSON array .json",
                )
            yield _row(origin, parse_json(stripped))
        first = first and not text.strip()


def _row(origin: Origin, parsed: JsonRow) -> RawRow:
    return RawRow(origin, None if parsed.problem else parsed.value, parsed.problem)


def _read_json(source: str, file: BinaryIO) -> Iterator[RawRow]:
    data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise DataError(
            f"{source} is a JSON array of more than {MAX_JSON_BYTES // 1_000_000} MB",
            param=source,
            hint="write one object a line and name the file .jsonl; that is read row by row",
        )
    _refuse_utf16(source, data)
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        yield RawRow(Origin(source, line), None, encoding_problem(error))
        return
    if text.startswith("["):
        for number, parsed in parse_array(text):
            yield _row(Origin(source, number), parsed)
    elif text:
        yield from _rows_of_object(source, parse_json(text))


def _rows_of_object(source: str, parsed: JsonRow) -> Iterator[RawRow]:
    lists = (
        [value for value in parsed.value.values() if isinstance(value, list)] if isinstance(parsed.value, dict) else []
    )
    if parsed.problem:
        yield RawRow(Origin(source, 1), None, parsed.problem)
    elif len(lists) != 1:
        raise DataError(
            f"{source} is not an array of rows, nor an object with one list of them",
            param=source,
            hint="write the rows as [{...}, {...}], or one a line in a .jsonl file",
        )
    else:
        for number, value in enumerate(lists[0], 1):
            yield RawRow(Origin(source, number), value)


def _read_csv(source: str, file: BinaryIO) -> Iterator[RawRow]:
    yield from _read_table(source, file, ",")


def _read_tsv(source: str, file: BinaryIO) -> Iterator[RawRow]:
    yield from _read_table(source, file, "\t")


def _read_table(source: str, file: BinaryIO, delimiter: str) -> Iterator[RawRow]:
    bad_lines: list[RawRow] = []

    def good_lines() -> Iterator[str]:
        for number, text, problem in _lines(source, file):
            if problem:
                bad_lines.append(RawRow(Origin(source, number), None, problem))
            # The bad line stays as an empty one, so that the reader's line numbers remain true.
            yield "\n" if problem else text

    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(good_lines(), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            origin, line = Origin(source, line), reader.line_num + 1
            if bad_lines:
                yield from bad_lines
                bad_lines.clear()
            elif header is None:
                header = _header(source, cells)
            elif cells:
                yield _table_row(origin, header, cells)
    except csv.Error as error:
        yield RawRow(Origin(source, line), None, f"is not valid CSV: {error}")
    yield from bad_lines


def _header(source: str, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{source} has the column {twice[0]!r} twice", param=source)
    return header


def _table_row(origin: Origin, header: list[str], cells: list[str]) -> RawRow:
    if len(cells) != len(header):
        return RawRow(origin, None, f"has {counted(len(cells), 'cell')}; the header has {len(header)}")
    row: dict[str, Any] = dict(zip(header, cells, strict=True))
    for name in JSON_COLUMNS:
        text = row.get(name, "").strip()
        if text:
            parsed = parse_json(text)
            if parsed.problem:
                return RawRow(origin, None, f"column {name!r}: {parsed.problem}")
            row[name] = parsed.value
        else:
            row.pop(name, None)
    return RawRow(origin, row)


def _read_parquet(source: str, file: BinaryIO) -> Iterator[RawRow]:
    import pyarrow
    from pyarrow import parquet

    if not file.read(1):
        return
    most_bytes = max(GROWTH_FREE_BYTES, MAX_GROWTH * file.seek(0, 2))
    file.seek(0)
    number = total_bytes = 0
    try:
        # Text stays in its dictionary until a row is taken: a value of megabytes may stand in every row.
        texts = _text_columns(parquet.ParquetFile(file).schema)
        parts = parquet.ParquetFile(file, read_dictionary=texts).iter_batches(BATCH_ROWS, use_threads=False)
        for batch in parts:
            for row in range(batch.num_rows):
                number += 1
                value = {name: column[row].as_py() for name, column in zip(batch.schema.names, batch, strict=True)}
                size = _text_bytes(value)
                total_bytes += size
                if total_bytes > most_bytes:
                    raise DataError(
                        f"{source} holds more than {MAX_GROWTH} times its size in text, up to row {number}",
                        param=source,
                        hint="it is damaged or was made to fill the memory; name the file it was made from",
                    )
                too_long = f"is longer than {MAX_LINE_BYTES // 1_000_000} MB" if size > MAX_LINE_BYTES else None
                yield RawRow(Origin(source, number), None if too_long else value, too_long)
    except (pyarrow.ArrowException, UnicodeDecodeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{source} cannot be read as Parquet after row {number}: {reason}", param=source) from error


def _text_columns(schema: Any) -> list[str]:
    """Columns of plain text: of texts inside a list, arrow can take the dictionary of one part of the file alone."""
    return [column.path for column in schema if column.physical_type == "BYTE_ARRAY" and "." not in column.path]


def _text_bytes(value: Any) -> int:
    """About how much memory the texts of a row take."""
    match value:
        case str() | bytes():
            return len(value)
        case dict():
            return sum(map(_text_bytes, value.values()))
        case list():
            return sum(map(_text_bytes, value))
    return 8


def _read_text(source: str, file: BinaryIO) -> Iterator[RawRow]:
    for number, text, problem in _lines(source, file):
        origin = Origin(source, number)
        if problem:
            yield RawRow(origin, None, problem)
        elif text.strip():
            yield RawRow(origin, {"text": text.rstrip("\r\n")})


Reader = Callable[[str, BinaryIO], Iterable[RawRow]]
READERS: dict[str, Reader] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}


def _read_hub(source: str) -> Iterator[RawRow]:
    name, _, split = source.removeprefix("hub:").partition(":")
    if not name:
        raise DataError("hub: needs a dataset's name", param=source, hint="write hub:org/name or hub:org/name:split")
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{source} needs the package `datasets`", param=source, hint="pip install 'residency[hub]'"
        ) from error
    try:
        rows = datasets.load_dataset(name, split=split or "train", streaming=True)
        for number, value in enumerate(rows, 1):
            yield RawRow(Origin(source, number), value)
    except Exception as error:  # the errors of four libraries meet here: datasets, huggingface_hub, fsspec, httpx
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{source} cannot be read from the Hub: {reason}",
            param=source,
            hint="check name, split and network (a gated dataset needs `hf auth login`), or name a local file",
        ) from error
