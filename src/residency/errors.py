"""Every failure a user can meet, as one tree.

    ResidencyError                exit 1    HTTP 500
    ├── ConfigError               exit 2    HTTP 400   the run file or a command's arguments are wrong
    ├── DataError                 exit 3    HTTP 400   rows that cannot be used, each with file, line and reason
    ├── ModelError                exit 4    HTTP 404   a model or tokenizer cannot be found or loaded
    │   └── TemplateError                   HTTP 400   its chat template is missing or cannot be trained on
    ├── ResourceError             exit 5    HTTP 503   memory, disk or permission ran out
    ├── TrainingError             exit 6    HTTP 500   the loss became NaN or exploded
    ├── RunError                  exit 7    HTTP 409   a run folder is missing, damaged or already in use
    ├── GraderError               exit 8    HTTP 400   a grader is wrong or could not answer
    ├── RequestError              exit 10   HTTP 400   a request is refused; or 401, 403, 404, 413, 429
    └── Interrupted               exit 130  HTTP 409   Ctrl-C or SIGTERM; a checkpoint was left

An error says what happened (`message`), which input caused it (`param`, a dotted path or a file) and what to do
(`hint`). `problems` lists all of them when there are several. Errors from libraries are mapped where they are met;
anything that is not in this tree is a bug of ours.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

ALIKE = 3
SHOWN = 50
"""Problems that a message shows; `problems` and `error.json` have all."""


def folded(problems: list[str]) -> list[str]:
    """What is said of more than ALIKE places is shown for the first of them, and counted."""
    reasons = [problem.partition(": ")[2] for problem in problems]
    times, seen, lines = Counter(reasons), Counter[str](), []
    for problem, reason in zip(problems, reasons, strict=True):
        seen[reason] += 1
        if not reason or seen[reason] <= ALIKE:
            lines.append(problem)
        elif seen[reason] == ALIKE + 1:
            lines.append(f"and {times[reason] - ALIKE:,} more: {reason}")
    return lines


class ResidencyError(Exception):
    """The root; `code` is stable and meant for programs."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        param: str | None = None,
        code: str | None = None,
        problems: list[str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param
        self.code = code or self.default_code
        self.problems = problems or []

    def __str__(self) -> str:
        problems = folded(self.problems)
        lines = [self.message, *(f"  - {problem}" for problem in problems[:SHOWN])]
        if (more := len(problems) - SHOWN) > 0:
            lines.append(f"  - and {more:,} more")
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)

    def as_record(self) -> dict[str, Any]:
        """The body of `error.json`, of `--json` output and of an HTTP error."""
        return {
            "type": type(self).__name__,
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "hint": self.hint,
            "problems": self.problems,
            "exit_code": self.exit_code,
        }


class ConfigError(ResidencyError):
    exit_code = 2
    http_status = 400
    default_code = "invalid_config"


class DataError(ResidencyError):
    exit_code = 3
    http_status = 400
    default_code = "invalid_data"


class ModelError(ResidencyError):
    exit_code = 4
    http_status = 404
    default_code = "model_unavailable"


class TemplateError(ModelError):
    http_status = 400
    default_code = "invalid_chat_template"


class ResourceError(ResidencyError):
    exit_code = 5
    http_status = 503
    default_code = "out_of_resources"


class TrainingError(ResidencyError):
    exit_code = 6
    http_status = 500
    default_code = "training_failed"


class RunError(ResidencyError):
    exit_code = 7
    http_status = 409
    default_code = "invalid_run"


class GraderError(ResidencyError):
    exit_code = 8
    http_status = 400
    default_code = "invalid_grader"


class RequestError(ResidencyError):
    exit_code = 10
    http_status = 400
    default_code = "invalid_request"

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None,
                 hint: str | None = None) -> None:  # fmt: skip
        super().__init__(message, code=code, param=param, hint=hint)
        self.status = status


class Interrupted(ResidencyError):
    exit_code = 130
    http_status = 409
    default_code = "interrupted"
