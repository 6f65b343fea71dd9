"""OpenAI's hyperparameters become a run file of ours, and nothing a client sends reaches the file system."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from residency.config.model import Lora, ResolvedConfig, RunConfig, Train
from residency.errors import ConfigError
from residency.server.database.tables import Job
from residency.server.job_settings import mapping_said, resolved_method, run_config, unknown_hyperparameters
from residency.server.worker_follow import Plan

NOT_HERE = "unknown key; known here: adapter, chat_template, speed, train"
ONE_OF = "must be one of lora, qlora, full"
OTHER_KIND = "does not apply to this kind of adapter; leave it out"
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
    assert isinstance(run.adapter, Lora)
    assert run.adapter.rank == 4


def test_checkpoints_and_held_out_losses_fall_on_the_ends_of_epochs() -> None:
    run = run_config(job(), FILE, Path("/data/file-2.jsonl"))
    assert (run.train.save_every_steps, run.train.eval_every_steps) == ("epoch", "epoch")
    assert run.data.eval == "/data/file-2.jsonl"


def test_sections_of_a_run_file_may_come_with_the_job() -> None:
    run = config({"adapter": {"kind": "qlora", "rank": 8}, "train": {"schedule": "cosine"}, "chat_template": "chatml"})
    assert run.adapter.kind == "qlora"
    assert (run.train.schedule, run.model.chat_template, run.model.id) == ("cosine", "chatml", "some/model")


def problems(
    settings: dict[str, Any] | None = None, validation: Path | None = None, **hyperparameters: Any
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        run_config(job(settings, **hyperparameters), FILE, validation)
    assert caught.value.param == caught.value.problems[0].partition(":")[0]
    return caught.value.problems


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"model": {"trust_remote_code": True}}, f"model: {NOT_HERE}"),
        ({"data": {"train": "/etc/passwd"}}, f"data: {NOT_HERE}"),
        ({"eval": {"graders": []}}, f"eval: {NOT_HERE}"),
        ({"adapter": {"kind": "peft", "type": "IA3"}}, f"adapter.kind: {ONE_OF} (got 'peft')"),
        ({"adapter": {"kind": "lroa"}}, f"adapter.kind: {ONE_OF} (got 'lroa'); did you mean lora?"),
        ({"adapter": {"kind": "full", "rank": 8}}, f"adapter.rank: {OTHER_KIND}"),
        ({"adapter": "lora"}, "adapter: must be a section of keys (got 'lora')"),
        ({"adapter": None}, "adapter: must be a section of keys (got null)"),
        ({"chat_template": "/etc/passwd"}, "chat_template: must be chatml or llama3 (got '/etc/passwd')"),
        ({"chat_template": ["chatml"]}, "chat_template: must be chatml or llama3 (got a list)"),
        ({"train": {"epoch": 3}}, "train.epoch: unknown key; did you mean residency.train.epochs?"),
        ({"epochs": 3}, "epochs: unknown key; did you mean residency.train.epochs?"),
        ({"train": {"rank": 3}}, "train.rank: unknown key; did you mean residency.adapter.rank?"),
        ({"adaptor": {"rank": 3}}, "adaptor: unknown key; did you mean residency.adapter?"),
        ({"train": {"epochs": -1}}, "train.epochs: must be greater than 0, or auto (got -1)"),
        ({"train": {"batch_size": True}}, "train.batch_size: must be a number (got true)"),
        ({"speed": {"threads": "two"}}, "speed.threads: must be a whole number, or auto (got 'two')"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_its_path_in_the_request(settings: dict[str, Any], problem: str) -> None:
    assert problems(settings) == [f"residency.{problem}"]


def test_all_problems_are_named_together() -> None:
    wrong = problems({"train": {"epoch": 3, "seed": "x"}, "speed": {"packing": "maybe"}})
    assert [one.partition(":")[0] for one in wrong] == [
        "residency.train.seed", "residency.train.epoch", "residency.speed.packing",
    ]  # fmt: skip


def test_hyperparameters_are_refused_under_their_own_names() -> None:
    place = "method.supervised.hyperparameters"
    assert problems(lora_rank=0, lora_alpha="big") == [
        f"{place}.lora_rank: must be at least 1, or auto (got 0)", f"{place}.lora_alpha: must be a number (got 'big')",
    ]  # fmt: skip
    assert problems({"adapter": {"kind": "full"}}, lora_rank=4) == [f"{place}.lora_rank: {OTHER_KIND}"]


def test_what_is_said_twice_must_be_the_same() -> None:
    config({"train": {"epochs": 3}, "adapter": {"rank": 4}}, n_epochs=3, lora_rank=4)
    assert problems({"train": {"epochs": 3}, "adapter": {"rank": "auto"}}, n_epochs=5, lora_rank=4) == [
        "residency.train.epochs: is 3, but the hyperparameter n_epochs is 5; leave one of them out",
        "residency.adapter.rank: is 'auto', but the hyperparameter lora_rank is 4; leave one of them out",
    ]


def test_a_rate_that_is_given_has_no_multiplier() -> None:
    config({"train": {"learning_rate": 1e-3}}, learning_rate_multiplier=1)
    config({"train": {"learning_rate": "auto"}}, learning_rate_multiplier=2)
    assert problems({"train": {"learning_rate": 1e-3}}, learning_rate_multiplier=2) == [
        "residency.train.learning_rate: is 0.001, and a learning_rate_multiplier does not change a rate that is given; "
        "leave one of them out"
    ]


def test_a_search_needs_a_validation_file() -> None:
    searched = {"train": {"learning_rate": "search"}}
    assert run_config(job(searched), FILE, FILE).train.learning_rate == "search"
    assert problems(searched) == [
        "residency.train.learning_rate: search needs held-out rows to compare candidates on; give the job a "
        "validation_file, or leave it to auto"
    ]


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
