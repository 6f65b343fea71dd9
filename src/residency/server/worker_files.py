"""Checks a job's files before it is queued, with OpenAI's error codes and words around our own findings.

invalid_n_examples       fewer than 10 examples
invalid_file_format      a line that is no JSON, an example without its keys, a weight in the wrong place
invalid_training_file    everything else that an example can have wrong
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from residency import durable
from residency.data.validate import load_examples
from residency.errors import DataError
from residency.server.database.tables import Job
from residency.server.worker_attempt import Desk

FileParam = Literal["training_file", "validation_file"]
LEAST_EXAMPLES = 10
SAID = 20
"""Problems that the job's events show."""
UNKNOWN_FORMAT = "Unexpected file format, expected either prompt/completion pairs or chat messages."
PROBLEM = re.compile(r".*?:(?P<line>\d+): (?P<what>.*)", re.DOTALL)
MESSAGE = re.compile(r"\bmessages\[(\d+)\]\.?")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a job fails, and everything that was found, an example a line."""

    code: str
    message: str
    param: FileParam
    problems: list[str]

    def as_error(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "param": self.param}


def local_files(desk: Desk, job: Job) -> tuple[Path, Path | None]:
    """The job's own copies of its files, which stay where a client deletes the file. Raises ResidencyError."""
    files = [local_file(desk, job, id) for id in (job.training_file, job.validation_file) if id]
    return files[0], files[1] if len(files) > 1 else None


def local_file(desk: Desk, job: Job, file_id: str) -> Path:
    copy = desk.work(job.id) / f"{file_id}.jsonl"
    if not copy.exists():
        aside = copy.with_suffix(".part")
        with desk.storage.open(file_id) as source, durable.disk_errors(copy):
            copy.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as target:
                shutil.copyfileobj(source, target)
            aside.replace(copy)
    return copy


def check_file(path: Path, param: FileParam) -> Refusal | int:
    """The number of its examples, or what is wrong with it."""
    kind = param.removesuffix("_file")
    try:
        loaded = load_examples(str(path), purpose="train" if kind == "training" else "eval")
    except DataError as error:
        return refusal(error, path, param)
    if loaded.format == "text":
        return Refusal("invalid_training_file", f"The job failed due to an invalid {kind} file. {UNKNOWN_FORMAT}",
                       param, [])  # fmt: skip
    count = len(loaded.examples)
    if kind == "training" and count < LEAST_EXAMPLES:
        message = f"Training file has {count} example(s), but must have at least {LEAST_EXAMPLES} examples"
        return Refusal("invalid_n_examples", message, param, [])
    return count


def refusal(error: DataError, path: Path, param: FileParam) -> Refusal:
    kind = param.removesuffix("_file")
    problems = list(example_problems(error))
    if not problems:
        what = error.message.replace(str(path), "The file")
        return Refusal("invalid_file_format", f"The job failed due to a file format error in the {kind} file. {what}",
                       param, [])  # fmt: skip
    first = problems[0]
    more = f" ({len(problems) - 1} more in the job's events)" if len(problems) > 1 else ""
    if "of no known format" in first:
        return Refusal("invalid_training_file", f"The job failed due to an invalid {kind} file. {UNKNOWN_FORMAT} "
                       f"{first}{more}", param, problems)  # fmt: skip
    if is_format_error(first):
        return Refusal("invalid_file_format", f"The job failed due to a file format error in the {kind} file. "
                       f"Invalid file format. {first}{more}", param, problems)  # fmt: skip
    return Refusal("invalid_training_file", f"The job failed due to an invalid {kind} file. Invalid file format. "
                   f"{first}{more}", param, problems)  # fmt: skip


def is_format_error(problem: str) -> bool:
    return any(words in problem for words in ('extra "weight"', "cannot be parsed", "is missing key"))


def example_problems(error: DataError) -> Iterator[str]:
    """Each as OpenAI would begin it; examples and messages count from 1, and the file's place on disk is left out."""
    for problem in error.problems:
        match = PROBLEM.fullmatch(problem)
        if match is None:
            continue
        line, what = match["line"], match["what"]
        if "is not valid JSON" in what:
            reason = what.removeprefix("is not valid JSON: ")
            what = f"cannot be parsed. Error: line contains invalid json: {reason} (line {line})"
        elif what.startswith('has an extra "weight"'):
            what = 'contains an extra "weight".'
        elif missing := re.match(r'has no "(\w+)", which', what):
            what = f"is missing key '{missing[1]}'"
        elif message := MESSAGE.match(what):
            rest = what[message.end() :].strip()
            what = f"message {int(message[1]) + 1} {rest}"
            yield f"Example {line}, {what}"
            continue
        yield f"Example {line} {what}"
