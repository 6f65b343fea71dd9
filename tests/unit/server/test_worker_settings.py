"""OpenAI's hyperparameters become a run file of ours, and nothing a client sends reaches the file system."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from residency.config.model import ResolvedConfig, RunConfig, Train
from residency.errors import ConfigError
from residency.server.database.tables import Job
from residency.server.worker_follow import Plan
from residency.server.worker_settings import mapping_said, resolved_method, run_config, unknown_hyperparameters

FILE = Path("/data/file-1.jsonl")
PLAN = Plan(
    Train.model_validate({
        "epochs": 3.0, "batch_size": 8, "micro_batch_tokens": 64, "learning_rate": 5.4e-4, "eval_every_steps": "epoch",
        "save_every_steps": "epoch", "learning_rate_multiplier": 2.0}),
    {}, rows=80, held_out=0, adapter="lora",
)  # fmt: skip


def job(settings: dict[str, Any] | None = None, **hyperparameters: Any) -> Job:
    asked = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"} | hyperparameters
    return Job(
        id="ftjob-1", project_id="p", model="m", base="some/model", training_file="file-1", seed=7,
        method={"type": "supervised", "supervised": {"hyperparameters": asked}},
        extensions={"settings": settings} if settings else {},
    )  # fmt: skip


def config(settings: dict[str, Any] | None = None, **hyperparameters: Any) -> RunConfig:
    return run_config(job(settings, **hyperparameters), FILE, None)


def test_auto_stays_ours_to_choose() -> None:
    run = config()
    assert (run.train.epochs, run.train.batch_size, run.train.learning_rate) == ("auto", "auto", "auto")
    assert run.train.learning_rate_multiplier == 1.0
    assert (run.name, run.model.id, run.data.train, run.data.eval) == ("ftjob-1", "some/model", str(FILE), None)
    assert run.train.seed == 7


def test_what_is_asked_for_is_done() -> None:
    run = config(n_epochs=5, batch_size=2, learning_rate_multiplier=1.8, lora_rank=4)
    assert (run.train.epochs, run.train.batch_size, run.train.learning_rate_multiplier) == (5, 2, 1.8)
    assert run.train.patience is None, "so many epochs were asked for"
    assert run.adapter.rank == 4  # type: ignore[union-attr]


def test_checkpoints_and_held_out_losses_fall_on_the_ends_of_epochs() -> None:
    run = run_config(job(), FILE, Path("/data/file-2.jsonl"))
    assert (run.train.save_every_steps, run.train.eval_every_steps) == ("epoch", "epoch")
    assert run.data.eval == "/data/file-2.jsonl"


def test_sections_of_a_run_file_may_come_with_the_job() -> None:
    run = config({"adapter": {"kind": "qlora", "rank": 8}, "train": {"schedule": "cosine"}, "chat_template": "chatml"})
    assert run.adapter.kind == "qlora"
    assert (run.train.schedule, run.model.chat_template, run.model.id) == ("cosine", "chatml", "some/model")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"model": {"trust_remote_code": True}}, "residency.model"),
        ({"data": {"train": "/etc/passwd"}}, "residency.data"),
        ({"eval": {"graders": []}}, "residency.eval"),
        ({"adapter": {"kind": "peft", "type": "IA3"}}, "residency.adapter.kind"),
        ({"adapter": "lora"}, "residency.adapter"),
        ({"chat_template": "/etc/passwd"}, "residency.chat_template"),
        ({"chat_template": ["chatml"]}, "residency.chat_template"),
        ({"train": {"epoch": 3}}, "train.epoch"),
        ({"train": {"epochs": -1}}, "train.epochs"),
    ],
)
def test_anything_else_is_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(settings)
    assert any(problem.startswith(named) for problem in caught.value.problems)


def test_hyperparameters_that_mean_nothing_here_are_named() -> None:
    assert unknown_hyperparameters(job(beta=0.1, lora_rank=4, n_epochs=2)) == ["beta"]
    config(beta=0.1)


def test_auto_is_replaced_by_what_runs() -> None:
    assert resolved_method(job(lora_rank=4), PLAN) == {
        "type": "supervised",
        "supervised": {"hyperparameters": {
            "n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 2.0, "lora_rank": 4}},
    }  # fmt: skip


def test_a_searched_rate_is_said_to_be_one() -> None:
    plan = replace(PLAN, settings=PLAN.settings.model_copy(update={"learning_rate": "search"}))
    assert "learning_rate_multiplier 1 (auto): a searched learning rate on lora;" in mapping_said(job(), plan)


def test_the_mapping_is_said() -> None:
    assert mapping_said(job(learning_rate_multiplier=2.0), PLAN) == (
        "Hyperparameters: n_epochs 3 (auto), batch_size 8 (auto), learning_rate_multiplier 2: a peak learning rate of "
        "0.00054 on lora; 30 steps over 80 examples"
    )


def test_a_run_of_a_job_leaves_no_auto_open_that_a_run_file_has_not() -> None:
    assert set(config().model_dump()) == set(ResolvedConfig.model_fields)
