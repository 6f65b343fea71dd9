"""What `POST /v1/fine_tuning/jobs` accepts, and what it means here."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from residency.errors import RequestError

NEXT_METHODS = {"dpo": "0.2", "reinforcement": "0.3"}
"""The release that brings a method which is validated already, and refused."""
Auto: TypeAlias = Literal["auto"]
Metadata: TypeAlias = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]


class Hyperparameters(BaseModel):
    """Other keys, such as `lora_rank`, are handed on to the trainer, which knows them or says that it does not."""

    model_config = ConfigDict(extra="allow")

    n_epochs: Annotated[int, Field(ge=1, le=50)] | Auto | None = None
    batch_size: Annotated[int, Field(ge=1, le=256)] | Auto | None = None
    learning_rate_multiplier: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Auto | None = None


class DpoHyperparameters(Hyperparameters):
    beta: Annotated[float, Field(gt=0, le=2)] | Auto | None = None


class ReinforcementHyperparameters(Hyperparameters):
    reasoning_effort: Literal["default", "low", "medium", "high"] | None = None
    compute_multiplier: Annotated[float, Field(ge=1e-5, le=10)] | Auto | None = None
    eval_interval: Annotated[int, Field(ge=1)] | Auto | None = None
    eval_samples: Annotated[int, Field(ge=1)] | Auto | None = None


class Block(BaseModel):
    """Other keys are left out, and an event names them."""

    model_config = ConfigDict(extra="allow")


class Supervised(Block):
    hyperparameters: Hyperparameters | None = None


class Dpo(BaseModel):
    hyperparameters: DpoHyperparameters | None = None


class Reinforcement(BaseModel):
    grader: dict[str, Any]
    hyperparameters: ReinforcementHyperparameters | None = None
    response_format: dict[str, Any] | None = None


class Method(Block):
    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: Reinforcement | None = None


class Wandb(BaseModel):
    project: Annotated[str, Field(min_length=1, max_length=256)]
    name: str | None = None
    entity: str | None = None
    tags: list[str] | None = None


class Integration(BaseModel):
    type: Literal["wandb"]
    wandb: Wandb


class NewJob(Block):
    model: Annotated[str, Field(min_length=1, max_length=512)]
    training_file: str
    validation_file: str | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]*$")] | None = None
    """Becomes a part of the tuned model's name."""
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    """The older place of `method.supervised.hyperparameters`; `method` goes first."""
    integrations: Annotated[list[Integration], Field(max_length=5)] | None = None
    metadata: Metadata | None = None
    residency: dict[str, Any] | None = None
    """What only Residency has, through the client's `extra_body`: sections of a run file."""


def unknown_keys(body: NewJob) -> list[str]:
    """By dotted path; which hyperparameters are known, the worker knows."""
    supervised = body.method.supervised if body.method else None
    blocks = (("", body), ("method.", body.method), ("method.supervised.", supervised))
    return [place + key[:64] for place, block in blocks if block for key in block.model_extra or {}]


def method_of(body: NewJob) -> dict[str, Any]:
    """The block that `method.type` names, alone: the official client's own tests send all three at once.

    Raises RequestError for a method that is not there yet.
    """
    kind = body.method.type if body.method else "supervised"
    if kind in NEXT_METHODS:
        raise RequestError(
            f"The method `{kind}` arrives with Residency {NEXT_METHODS[kind]}; this release trains `supervised` jobs",
            param="method.type", code="method_not_available",
        )  # fmt: skip
    block = body.method.supervised if body.method else None
    chosen = (block and block.hyperparameters) or body.hyperparameters or Hyperparameters()
    values = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    return {"type": kind, kind: {"hyperparameters": values | chosen.model_dump(exclude_none=True)}}
