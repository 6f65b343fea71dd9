"""From what OpenAI's client asks for to a run file of ours, and back to the words that say so.

    n_epochs                    train.epochs
    batch_size                  train.batch_size
    learning_rate_multiplier    train.learning_rate_multiplier: a multiple of the rate our rule gives; `auto` is 1
    lora_rank, lora_alpha       adapter.rank, adapter.alpha (OpenAI has no such fields)

`extra_body={"residency": {...}}` holds sections of a run file: `adapter`, `train`, `speed`, and `chat_template` by
name. The API refuses a job that no run file can be made of, and the worker makes the run file, both by `run_config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from residency.config.load import merge, parse, parse_run
from residency.config.model import DEFAULTS, Full, Lora, Qlora, RunConfig, Speed, Train
from residency.config.problems import invalid, shown
from residency.config.section import Auto, Section
from residency.errors import ConfigError
from residency.server.database.tables import Job
from residency.server.worker_follow import Plan
from residency.wording import counted

HYPERPARAMETERS = {
    "n_epochs": ("train", "epochs"),
    "batch_size": ("train", "batch_size"),
    "learning_rate_multiplier": ("train", "learning_rate_multiplier"),
    "lora_rank": ("adapter", "rank"),
    "lora_alpha": ("adapter", "alpha"),
}


class OwnSettings(Section):
    """What a client may set of a run file. Nothing in it can name a file."""

    adapter: Lora[Auto] | Qlora[Auto] | Full = Field(default=DEFAULTS | {"kind": "lora"}, discriminator="kind")
    train: Train[Auto] = Field(default=DEFAULTS)
    speed: Speed[Auto] = Field(default=DEFAULTS)
    chat_template: Literal["chatml", "llama3"] | None = None


class Extension(Section):
    """The part of a request that OpenAI has no fields for."""

    residency: OwnSettings


def run_config(job: Job, train: Path, validation: Path | None) -> RunConfig:
    """The run of a supervised job on these files. Raises ConfigError, whose paths are those of the request."""
    settings, asked = own_settings(job), given(job)
    values: dict[str, Any] = {
        "name": job.id,
        "model": {"id": job.base, "chat_template": settings.pop("chat_template", None)},
        "data": {"train": str(train), "eval": str(validation) if validation else None},
        "adapter": {"kind": "lora"},
        "train": {"seed": job.seed, "save_every_steps": "epoch", "eval_every_steps": "epoch"},
    }
    if "n_epochs" in asked:
        values["train"]["patience"] = None  # who asks for so many epochs gets them
    for name, value in asked.items():
        section, key = HYPERPARAMETERS[name]
        values[section][key] = value
    merge(values, settings)
    if problems := [*contradictions(asked, settings), *nothing_to_search_by(settings, validation)]:
        raise invalid("the job", problems)
    try:
        return parse_run(values, source="the job")
    except ConfigError as error:
        raise invalid("the job", [as_asked(job, problem) for problem in error.problems]) from error


def own_settings(job: Job) -> dict[str, Any]:
    """The sections that came with the job, as they came. Raises ConfigError."""
    settings = dict(job.extensions.get("settings") or {})
    with_kind = dict(settings)
    if isinstance(settings.get("adapter"), Mapping):
        with_kind["adapter"] = {"kind": "lora", **settings["adapter"]}
    parse(Extension, {"residency": with_kind}, source="the job")
    return settings


def hyperparameters(job: Job) -> dict[str, Any]:
    """The block that `method.type` names."""
    block = job.method.get(job.method["type"]) or {}
    return dict(block.get("hyperparameters") or {})


def given(job: Job) -> dict[str, Any]:
    """The hyperparameters that mean something here and are not ours to choose."""
    asked = hyperparameters(job)
    return {name: asked[name] for name in HYPERPARAMETERS if asked.get(name, "auto") not in ("auto", None)}


def unknown_hyperparameters(job: Job) -> list[str]:
    """What the client asked for and nothing here knows; a job goes on without it, and says so."""
    return sorted(hyperparameters(job).keys() - HYPERPARAMETERS.keys())


def contradictions(asked: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Where a hyperparameter and a section of the run file say two things; neither goes silently before the other."""
    problems = []
    for name, value in asked.items():
        section, key = HYPERPARAMETERS[name]
        own = settings.get(section, {}).get(key, value)
        if own != value:
            problems.append(f"residency.{section}.{key}: is {shown(own)}, but the hyperparameter {name} is "
                            f"{shown(value)}; leave one of them out")  # fmt: skip
    rate = settings.get("train", {}).get("learning_rate", "auto")
    if asked.get("learning_rate_multiplier", 1) != 1 and rate not in ("auto", "search"):
        problems.append(f"residency.train.learning_rate: is {shown(rate)}, and a learning_rate_multiplier does not "
                        "change a rate that is given; leave one of them out")  # fmt: skip
    return problems


def nothing_to_search_by(settings: Mapping[str, Any], validation: Path | None) -> list[str]:
    if validation or settings.get("train", {}).get("learning_rate") != "search":
        return []
    return ["residency.train.learning_rate: search needs held-out rows to compare candidates on; give the job a "
            "validation_file, or leave it to auto"]  # fmt: skip


def as_asked(job: Job, problem: str) -> str:
    """A hyperparameter's problem under the name that the client gave it."""
    path, _, reason = problem.partition(": ")
    block = f"method.{job.method['type']}.hyperparameters"
    names = {".".join(place): f"{block}.{name}" for name, place in HYPERPARAMETERS.items()}
    return f"{names.get(path, path)}: {reason}"


def resolved_method(job: Job, plan: Plan) -> dict[str, Any]:
    """The job's method with every "auto" replaced by what runs."""
    settings, name = plan.settings, job.method["type"]
    epochs = int(settings.epochs) if settings.epochs == int(settings.epochs) else settings.epochs
    found = {
        "n_epochs": epochs,
        "batch_size": settings.batch_size,
        "learning_rate_multiplier": settings.learning_rate_multiplier,
    }
    block = job.method.get(name) or {}
    return job.method | {name: block | {"hyperparameters": hyperparameters(job) | found}}


def mapping_said(job: Job, plan: Plan) -> str:
    """One sentence on what OpenAI's names came to here."""
    settings, asked = plan.settings, hyperparameters(job)
    multiplier = asked.get("learning_rate_multiplier", "auto")
    multiplied = "1 (auto)" if multiplier == "auto" else f"{multiplier:g}"
    searched = isinstance(settings.learning_rate, str)
    rate = "a searched learning rate" if searched else f"a peak learning rate of {settings.learning_rate:.2g}"
    return (
        f"Hyperparameters: n_epochs {settings.epochs:g}{auto(asked, 'n_epochs')}, batch_size {settings.batch_size}"
        f"{auto(asked, 'batch_size')}, learning_rate_multiplier {multiplied}: {rate} "
        f"on {plan.adapter}; {counted(plan.steps, 'step')} over {counted(plan.rows, 'example')}"
    )


def auto(asked: Mapping[str, Any], name: str) -> str:
    return " (auto)" if asked.get(name, "auto") == "auto" else ""
