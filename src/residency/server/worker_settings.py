"""From what OpenAI's client asks for to a run file of ours, and back to the words that say so.

    n_epochs                    train.epochs
    batch_size                  train.batch_size
    learning_rate_multiplier    train.learning_rate_multiplier: a multiple of the rate our rule gives; `auto` is 1
    lora_rank, lora_alpha       adapter.rank, adapter.alpha (OpenAI has no such fields)

`extra_body={"residency": {...}}` holds sections of a run file: `adapter`, `train`, `speed`, and `chat_template` by
name. Nothing in it can name a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from residency.config.load import merge, parse_run
from residency.config.model import RunConfig
from residency.data.templates import NAMED
from residency.errors import ConfigError
from residency.server.database.tables import Job
from residency.server.worker_follow import Plan

HYPERPARAMETERS = {
    "n_epochs": ("train", "epochs"),
    "batch_size": ("train", "batch_size"),
    "learning_rate_multiplier": ("train", "learning_rate_multiplier"),
    "lora_rank": ("adapter", "rank"),
    "lora_alpha": ("adapter", "alpha"),
}
SECTIONS = ("adapter", "train", "speed")
ADAPTERS = ("lora", "qlora", "full")


def run_config(job: Job, train: Path, validation: Path | None) -> RunConfig:
    """The run of a supervised job on these files. Raises ConfigError, whose paths are those of the request."""
    asked = hyperparameters(job)
    values: dict[str, Any] = {
        "name": job.id,
        "model": {"id": job.base},
        "data": {"train": str(train), "eval": str(validation) if validation else None},
        "adapter": {"kind": "lora"},
        "train": {"seed": job.seed, "save_every_steps": "epoch", "eval_every_steps": "epoch"},
    }
    if asked.get("n_epochs", "auto") != "auto":
        values["train"]["patience"] = None  # who asks for so many epochs gets them
    for name, value in asked.items():
        if name in HYPERPARAMETERS and value is not None and (name, value) != ("learning_rate_multiplier", "auto"):
            section, key = HYPERPARAMETERS[name]
            values[section][key] = value
    merge(values, own_settings(job.extensions.get("settings") or {}))
    return parse_run(values, source="the job")


def hyperparameters(job: Job) -> dict[str, Any]:
    """The block that `method.type` names."""
    block = job.method.get(job.method["type"]) or {}
    return dict(block.get("hyperparameters") or {})


def unknown_hyperparameters(job: Job) -> list[str]:
    """What the client asked for and nothing here knows; a job goes on without it, and says so."""
    return sorted(hyperparameters(job).keys() - HYPERPARAMETERS.keys())


def own_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a client may set of a run file. Raises ConfigError for what is not there or would reach the file system."""
    problems = [f"residency.{name}: unknown; known are {', '.join(SECTIONS)}, chat_template"
                for name in settings if name not in (*SECTIONS, "chat_template")]  # fmt: skip
    values: dict[str, Any] = {name: settings[name] for name in SECTIONS if name in settings}
    problems += [f"residency.{name}: must be an object" for name in values if not isinstance(values[name], Mapping)]
    adapter = values.get("adapter")
    if isinstance(adapter, Mapping) and adapter.get("kind", "lora") not in ADAPTERS:
        problems.append(f"residency.adapter.kind: must be one of {', '.join(ADAPTERS)}")
    if (template := settings.get("chat_template")) is not None:
        if not isinstance(template, str) or template not in NAMED:
            problems.append(f"residency.chat_template: must be one of {', '.join(NAMED)}")
        values["model"] = {"chat_template": template}
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError(f"residency: {count}", problems=problems, param=problems[0].partition(":")[0])
    return values


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
        f"on {plan.adapter}; {plan.steps} steps over {plan.rows} examples"
    )


def auto(asked: Mapping[str, Any], name: str) -> str:
    return " (auto)" if asked.get(name, "auto") == "auto" else ""
