"""The sweep file: which fields of a run file to vary, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from residency.config.load import field_paths, merge, parse_run, place_paths
from residency.config.model import RunConfig
from residency.config.problems import describe
from residency.config.section import Section
from residency.config.yaml_file import read_yaml
from residency.errors import ConfigError

UNFELT = ("retention", "eval")
"""Sections that a trial takes no part in: it is trained, and its held-out loss is measured."""
SPLITTING = ("data.", "train.seed")
"""Fields that change which rows are held out where those are a share of the training rows."""


class Range(Section):
    low: float
    high: float
    log: bool = False
    """Evenly over the logarithm."""
    step: float | None = None
    """Only multiples of it above `low`."""

    @model_validator(mode="after")
    def rising(self) -> Range:
        if not self.low < self.high:
            raise ValueError("low must be less than high")
        if self.log and (self.step or self.low <= 0):
            raise ValueError("a logarithmic range starts above 0 and has no step")
        return self


class Sweep(Section):
    run: str
    """The run file that the sweep varies."""
    fields: dict[str, Annotated[list[Any], Field(min_length=1)] | Range] = Field(min_length=1)
    """By dotted path: the values to choose from, or a range; they stand as if in the run file."""
    trials: Annotated[int, Field(ge=1)] = 16
    """Settings to try."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """How settings are drawn (Optuna's TPESampler, RandomSampler, BruteForceSampler)."""
    pruner: Literal["halving", "hyperband", "median", "none"] = "halving"
    """How bad trials are stopped (Optuna's SuccessiveHalvingPruner, HyperbandPruner, MedianPruner, NopPruner)."""
    side_by_side: Annotated[int, Field(ge=1)] = 4
    """Trials drawn at once; those of one base train in the same passes."""
    seed: int = 0
    """Of the sampler."""


def load_sweep(path: Path) -> Sweep:
    """Raises ConfigError with all problems of the file and of every value it lists."""
    values = read_yaml(path, "sweep")
    try:
        sweep = Sweep.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: it is no sweep file", problems=describe(error, values, list(Sweep.model_fields)),
                          param=str(path)) from error  # fmt: skip
    known = field_paths()
    unknown = [name for name in sweep.fields if not any(name == k or k.startswith(f"{name}.") for k in known)]
    if unknown:
        raise ConfigError(
            f"{path}: fields: there is no {unknown[0]} in a run file", param=f"fields.{unknown[0]}",
            hint="name it by its dotted path, for example train.learning_rate or adapter.rank",
        )  # fmt: skip
    sweep = sweep.model_copy(update={"run": str((path.parent / sweep.run).resolve())})
    base = run_of(sweep, {})
    for name, choices in sweep.fields.items():
        for value in [choices.low, choices.high] if isinstance(choices, Range) else choices:
            run_of(sweep, {name: int(value) if isinstance(value, float) and value.is_integer() else value})
    require_the_same_held_out_rows(base, sweep.fields)
    require_felt(sweep.fields)
    return sweep


def require_felt(fields: Mapping[str, Any]) -> None:
    if unfelt := [name for name in fields if name.split(".")[0] in UNFELT]:
        raise ConfigError(
            f"{unfelt[0]} makes no difference between trials: they are trained and compared by their held-out loss",
            param=f"fields.{unfelt[0]}", hint="leave it out of the sweep's fields",
        )  # fmt: skip


def require_the_same_held_out_rows(base: RunConfig, fields: Mapping[str, Any]) -> None:
    if base.data.eval is None or "data.eval" in fields:
        raise ConfigError("a sweep compares settings on the same held-out rows", param="data.eval",
                          hint="set data.eval in the run file, and leave it out of the sweep's fields")  # fmt: skip
    moving = [name for name in fields if name.startswith(SPLITTING)]
    if moving and not Path(base.data.eval).is_file():
        raise ConfigError(
            f"{moving[0]} changes which rows are held out, and settings are compared on the same ones",
            param=f"fields.{moving[0]}", hint="name a file of held-out rows in the run file's data.eval",
        )  # fmt: skip
    if "search" in _listed(fields.get("train.learning_rate", [base.train.learning_rate])):
        raise ConfigError(
            "a sweep tries learning rates itself", param="train.learning_rate",
            hint="give fields.train.learning_rate a range such as {low: 1e-4, high: 4e-3, log: true}",
        )  # fmt: skip


def _listed(choices: Any) -> Sequence[Any]:
    return choices if isinstance(choices, list) else []


def run_of(sweep: Sweep, values: Mapping[str, Any]) -> RunConfig:
    """The run file with these values set; relative paths among them are meant from its folder, as the file's own."""
    run = read_yaml(Path(sweep.run))
    for path, value in values.items():
        for key in reversed(path.split(".")):
            value = {key: value}
        merge(run, value)
    place_paths(run, Path(sweep.run).parent)
    return parse_run(run, source=sweep.run)
