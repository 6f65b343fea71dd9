"""Fine-tunes language models into specialists, and proves it.

`import residency` costs nothing: each public name loads its module when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from residency.config.load import load_run
    from residency.config.model import ResolvedConfig, RunConfig
    from residency.engine.engine import Engine
    from residency.errors import (
        ConfigError,
        DataError,
        GraderError,
        Interrupted,
        ModelError,
        RequestError,
        ResidencyError,
        ResourceError,
        RunError,
        TemplateError,
        TrainingError,
    )
    from residency.evals.run import evaluate
    from residency.pipeline import run
    from residency.records import RunFolder

__all__ = [
    "ConfigError",
    "DataError",
    "Engine",
    "GraderError",
    "Interrupted",
    "ModelError",
    "RequestError",
    "ResidencyError",
    "ResolvedConfig",
    "ResourceError",
    "RunConfig",
    "RunError",
    "RunFolder",
    "TemplateError",
    "TrainingError",
    "evaluate",
    "load_run",
    "run",
]

_MODULES = {
    "Engine": "engine.engine",
    "ResolvedConfig": "config.model",
    "RunConfig": "config.model",
    "RunFolder": "records",
    "evaluate": "evals.run",
    "load_run": "config.load",
    "run": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'residency' has no attribute {name!r}")
    value = getattr(import_module(f"residency.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
