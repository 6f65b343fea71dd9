"""OpenAI's graders as clients send them, turned into ours; shared by the graders endpoints and by evals."""

from __future__ import annotations

import time
from typing import Any

from pydantic import TypeAdapter, ValidationError

from residency.config.graders import Grader, Multi, Python
from residency.config.problems import by_path, either
from residency.errors import GraderError, RequestError
from residency.graders.score import check_grader
from residency.records import Grade
from residency.server.settings import Settings

GRADER: TypeAdapter[Grader] = TypeAdapter(Grader)
SINGLE_KEYS = ("type", "name")
ERRORS = (
    "formula_parse_error", "sample_parse_error", "truncated_observation_error", "unresponsive_reward_error",
    "invalid_variable_error", "other_error", "python_grader_server_error", "python_grader_runtime_error",
    "model_grader_server_error", "model_grader_refusal_error", "model_grader_parse_error",
)  # fmt: skip
DETAILS = (
    "python_grader_server_error_type", "python_grader_runtime_error_details", "model_grader_server_error_details",
)  # fmt: skip


def parse_grader(value: dict[str, Any], settings: Settings) -> Grader:
    """Raises RequestError where it is no grader, GraderError where it could never work or may not run here."""
    asked = normalised(value)
    try:
        grader = GRADER.validate_python(asked)
    except ValidationError as error:
        problems = [f"{path}: {either(details)}" for path, details in by_path(error.errors(), asked).items()]
        raise RequestError(
            f"Invalid grader: {'; '.join(problems[:5])}", param="grader", code="invalid_grader"
        ) from None
    refuse_here(grader, settings)
    check_grader(grader)
    return grader


def normalised(value: dict[str, Any]) -> dict[str, Any]:
    """`multi.graders` may be an object by name, a list, or one grader; the object is what we keep.

    Message content may be text, a part, or a list of parts; the text of the parts is what a grader sees.
    """
    if value.get("type") == "multi":
        parts = value.get("graders")
        if isinstance(parts, dict) and all(key in parts for key in SINGLE_KEYS):
            parts = [parts]
        if isinstance(parts, list):
            parts = {str(part.get("name")): part for part in parts if isinstance(part, dict)}
        if isinstance(parts, dict):
            value = value | {"graders": {k: normalised(v) if isinstance(v, dict) else v for k, v in parts.items()}}
    if isinstance(value.get("input"), list):
        value = value | {"input": [with_text(message) for message in value["input"]]}
    if value.get("operation") == "neq":  # the guide's word for the schema's `ne`
        value = value | {"operation": "ne"}
    return value


def with_text(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    if not all(isinstance(part, str | dict) for part in parts):
        return message
    return message | {"content": "".join(map(text_of, parts))}


def text_of(part: Any) -> str:
    return part if isinstance(part, str) else str(part.get("text", ""))


def refuse_here(grader: Grader, settings: Settings) -> None:
    """A client must not choose whom this machine talks to, nor run code where the operator did not allow it."""
    parts = list(grader.graders.values()) if isinstance(grader, Multi) else [grader]
    if any(getattr(part, "base_url", None) for part in parts):
        raise GraderError("`base_url` cannot be set through the server", code="base_url_refused",
                          hint="whoever runs the server names the judges' endpoint in OPENAI_BASE_URL")  # fmt: skip
    if any(isinstance(part, Python) for part in parts) and not settings.python_graders:
        raise GraderError("python graders are switched off on this server", code="python_graders_off",
                          hint="whoever runs the server switches them on with --python-graders")  # fmt: skip


def grader_metadata(grader: Grader, grade: Grade, began: float) -> dict[str, Any]:
    errors: dict[str, Any] = dict.fromkeys(ERRORS, False) | dict.fromkeys(DETAILS)
    if grade.error:
        errors |= blamed(grader, grade.error)
    return {
        "name": grader.name,
        "type": grader.type,
        "execution_time": time.monotonic() - began,
        "scores": {grader.name: grade.score},
        "token_usage": None,
        "sampled_model_name": getattr(grader, "model", None),
        "errors": errors,
    }


def blamed(grader: Grader, reason: str) -> dict[str, Any]:
    match grader.type:
        case "python":
            return {"python_grader_runtime_error": True, "python_grader_runtime_error_details": reason}
        case "score_model" | "label_model":
            return {"model_grader_server_error": True, "model_grader_server_error_details": reason}
        case "multi":
            return {"formula_parse_error": True}
    return {"sample_parse_error": True}
