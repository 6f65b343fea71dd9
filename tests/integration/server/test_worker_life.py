"""A job's life as its client sees it, with real training of a tiny model in real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.e2e.tiny import make_model_folder, rows
from tests.integration.server.rig import Home, jsonl

PLAIN = {"settings": {"speed": {"threads": 1, "precision": "fp32"}}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = Home(tmp_path_factory.mktemp("home"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def finished(home: Home, model: Path) -> str:
    """A job of four epochs with a validation file, whose training file was deleted while it waited."""
    training, validation = home.upload(jsonl(rows(30))), home.upload(jsonl(rows(6, start=50)))
    job = home.create(model, training, validation_file=validation, suffix="colors", extensions=PLAIN,
                      integrations=[{"type": "wandb", "wandb": {"project": "p"}}],
                      hyperparameters={"n_epochs": 4, "learning_rate_multiplier": 2.0, "beta": 0.1})  # fmt: skip
    with home.worker():
        home.wait_for(job, "queued", "running")
        home.storage.delete(training)
        home.wait_for(job)
    assert home.job(job).status == "succeeded", home.job(job).error
    return job


def test_its_events_come_in_the_documented_order(home: Home, finished: str) -> None:
    job = home.job(finished)
    said = [event.message for event in home.events(finished) if event.type == "message" and "kind" not in event.data]
    name = job.fine_tuned_model
    earlier = [one.name for one in home.checkpoints(finished)][:-1]
    assert said == [
        f"Created fine-tuning job: {finished}",
        f"Validating training file: {job.training_file} and validation file: {job.validation_file}",
        "Files validated, moving job to queued state",
        "Hyperparameters that mean nothing here and are left out: beta",
        "Fine-tuning job started",
        "Weights & Biases gets no metrics: its library is not installed on the server (pip install wandb)",
        next(message for message in said if message.startswith("Hyperparameters: n_epochs 4, batch_size 8 (auto)")),
        f"Checkpoint created at step 8 with Snapshot ID: {earlier[0]}",
        f"Checkpoint created at step 12 with Snapshot ID: {earlier[1]}",
        f"New fine-tuned model created: {name}",
        "The job has successfully completed",
    ]


def test_each_step_has_one_metrics_event(home: Home, finished: str) -> None:
    metrics = home.metrics(finished)
    assert [one["step"] for one in metrics] == list(range(1, 16))
    assert {one["total_steps"] for one in metrics} == {15}
    assert [one["step"] for one in metrics if "full_valid_loss" in one] == [4, 8, 12, 15]
    recorded = {one.step: one for one in home.run(finished).metrics() if one.split == "train"}
    assert all(one["train_loss"] == round(recorded[one["step"]].loss, 5) for one in metrics)


def test_the_job_shows_what_ran(home: Home, finished: str) -> None:
    job = home.job(finished)
    assert job.method["supervised"]["hyperparameters"] == {
        "n_epochs": 4, "batch_size": 8, "learning_rate_multiplier": 2.0, "beta": 0.1
    }  # fmt: skip
    assert job.trained_tokens is not None
    assert job.trained_tokens > 500
    assert job.finished_at is not None
    assert job.estimated_finish is None
    assert job.extensions["report"]["steps"] == 15


def test_its_model_and_the_last_earlier_checkpoints_are_adapters_that_load(home: Home, finished: str) -> None:
    name = home.job(finished).fine_tuned_model
    checkpoints = home.checkpoints(finished)
    assert name is not None
    assert name.startswith("ft:tiny:org:colors:")
    assert [one.step_number for one in checkpoints] == [8, 12, 15]
    assert checkpoints[-1].name == name
    assert [one.name.rpartition(":")[2] for one in checkpoints[:-1]] == ["ckpt-step-8", "ckpt-step-12"]
    assert all(one.metrics["full_valid_loss"] > 0 for one in checkpoints)
    folders = [Path(home.model(one.name).adapter or "") for one in checkpoints]
    weights = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    assert all((folder / "adapter_config.json").exists() for folder in folders)
    assert all((folder / "tokenizer.json").exists() for folder in folders)
    assert weights[0].keys() == weights[2].keys()
    assert any(bool((weights[0][key] != weights[2][key]).any()) for key in weights[0])


def test_its_result_file_has_a_row_a_step(home: Home, finished: str) -> None:
    [file] = home.job(finished).result_files
    lines = home.storage.open(file).read().decode().splitlines()
    assert lines[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert len(lines) == 16
    assert lines[1].endswith(",,")
    assert not lines[4].endswith(",,")


def test_nothing_names_this_machines_folders(home: Home, finished: str) -> None:
    said = [event.message + str(event.data) for event in home.events(finished)]
    assert not [one for one in said if str(home.settings.home) in one]


def test_the_jobs_copies_of_the_data_go_with_its_end(home: Home, finished: str) -> None:
    assert not list((home.settings.home / "work" / finished).glob("*.jsonl"))


def test_a_tuned_model_can_be_trained_further(home: Home, model: Path, finished: str) -> None:
    """From a checkpoint of it, with what a client sends for that: its name as the model."""
    checkpoint = home.checkpoints(finished)[0].name
    parent = home.model(checkpoint)
    job = home.create(model, home.upload(jsonl(rows(12))), model=checkpoint, parent=parent.adapter, suffix="more",
                      extensions=PLAIN, hyperparameters={"n_epochs": 1})  # fmt: skip
    home.work_here()
    done = home.job(job)
    assert done.status == "succeeded", done.error
    assert done.fine_tuned_model is not None
    assert done.fine_tuned_model.startswith("ft:tiny:org:more:"), "the base's name stays"
    further = home.model(done.fine_tuned_model)
    assert (Path(further.base) / "config.json").is_file()
    assert further.base == done.base != str(model)
    base, merged = (load_file(folder / "model.safetensors") for folder in (model, Path(further.base)))
    assert any(bool((base[key] != merged[key]).any()) for key in base)


# ---- jobs that cannot succeed


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path / "home")
    yield made
    made.close()


def failed(home: Home, model: Path | str, content: bytes, **fields: Any) -> dict[str, Any]:
    """The error of a job that never trains."""
    job = home.create(model, home.upload(content), **fields)
    home.work_here()
    assert home.job(job).status == "failed"
    error = home.job(job).error
    assert error is not None
    last = home.events(job)[-1]
    assert (last.level, last.message) == ("error", error["message"])
    return error


def test_a_bad_file_fails_the_job_after_it_was_accepted(fresh: Home, model: Path) -> None:
    error = failed(fresh, model, jsonl(rows(7)))
    assert (error["code"], error["param"]) == ("invalid_n_examples", "training_file")


def test_a_wrong_setting_fails_the_job_with_its_path(fresh: Home, model: Path) -> None:
    error = failed(fresh, model, jsonl(rows(10)), extensions={"settings": {"train": {"epoch": 3}}})
    assert "train.epoch: unknown key" in error["message"]


def test_a_file_that_was_deleted_before_it_was_checked_fails_the_job(fresh: Home, model: Path) -> None:
    file = fresh.upload(jsonl(rows(10)))
    job = fresh.create(model, file)
    fresh.storage.delete(file)
    fresh.work_here()
    error = fresh.job(job).error
    assert error is not None
    assert file in error["message"]


def test_what_the_trainer_refuses_fails_the_job_with_its_reason(fresh: Home, tmp_path: Path) -> None:
    error = failed(fresh, tmp_path / "nowhere", jsonl(rows(10)))
    assert error["code"] == "model_unavailable"
    assert str(fresh.settings.home) not in error["message"]


def test_a_cancel_is_heard_before_training_begins(fresh: Home, model: Path) -> None:
    job = fresh.create(model, fresh.upload(jsonl(rows(10))))
    fresh.ask(job, "cancel")
    fresh.work_here()
    assert fresh.job(job).status == "cancelled"
    assert not fresh.run(job).path.exists()
