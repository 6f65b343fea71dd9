"""`/v1/fine_tuning/alpha/graders`"""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from residency.graders.score import grade
from residency.server.api.server import Trainer
from residency.server.api.strict_json import StrictRoute
from residency.server.grading import grader_metadata, parse_grader

router = APIRouter(prefix="/fine_tuning/alpha/graders", tags=["graders"], route_class=StrictRoute)

LONGEST_SAMPLE = 1_000_000


class Validation(BaseModel):
    grader: dict[str, Any]


class Run(Validation):
    model_sample: Annotated[str, Field(max_length=LONGEST_SAMPLE)]
    """The answer that is graded; `sample.output_json` is there where it is JSON."""
    item: dict[str, Any] | None = None
    """What templates know as `item`."""


class Graded(TypedDict):
    reward: float
    sub_rewards: dict[str, float]
    model_grader_token_usage_per_model: dict[str, Any]
    metadata: dict[str, Any]


class Validated(TypedDict):
    grader: dict[str, Any]


@router.post("/validate")
def validate_grader(caller: Trainer, body: Validation) -> Validated:
    """Gives the grader back, or says what is wrong with it."""
    parse_grader(body.grader, caller.server.settings)
    return {"grader": body.grader}


@router.post("/run")
def run_grader(caller: Trainer, body: Run) -> Graded:
    """Grades one answer. An answer that cannot be graded gets 0, and `metadata.errors` says why."""
    began = time.monotonic()
    grader = parse_grader(body.grader, caller.server.settings)
    graded = grade(grader, body.item or {}, body.model_sample)
    return {
        "reward": graded.score,
        "sub_rewards": {},
        "model_grader_token_usage_per_model": {},
        "metadata": grader_metadata(grader, graded, began),
    }
