"""Every failure as OpenAI tells it: `{"error": {"message", "type", "param", "code"}}` and a status."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from residency.config.problems import by_path, either
from residency.errors import RequestError, ResidencyError

TOO_MANY = "rate_limit_exceeded"


DEVICE_ERRORS = ("CUDA error", "CUDNN", "CUBLAS", "AcceleratorError", "device-side assert")


def is_device_error(error: BaseException) -> bool:
    """After one of these nothing works on the device in this process any more."""
    return any(mark.lower() in f"{type(error).__name__} {error}".lower() for mark in DEVICE_ERRORS)


def status(error: ResidencyError) -> int:
    return error.status if isinstance(error, RequestError) else error.http_status


def envelope(error: ResidencyError) -> dict[str, Any]:
    known = status(error)
    kind = "rate_limit_error" if known == 429 else "server_error" if known >= 500 else "invalid_request_error"
    message = f"{error.message}. {error.hint[0].upper()}{error.hint[1:]}." if error.hint else error.message
    return {"error": {"message": message, "type": kind, "param": error.param, "code": error.code}}


def invalid(error: ValidationError, body: dict[str, Any]) -> RequestError:
    """The first thing that is wrong with a request body."""
    path, details = next(iter(by_path(error.errors(include_url=False), body).items()))
    param = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in path.split(".")).lstrip(".")
    return RequestError(f"Invalid value for '{param}': {either(details)}", param=param, code="invalid_value")
