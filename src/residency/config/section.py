"""What all parts of a run file share: unknown keys are errors, values never change, docstrings are the help."""

from __future__ import annotations

from typing import Literal, Never, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict

Auto: TypeAlias = Literal["auto"]
Final: TypeAlias = Never

A = TypeVar("A", bound=str)
"""`Run[Auto]` is what a user writes; `Run[Final]` is what runs: the same fields, with no "auto" left."""


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, validate_default=True
    )
