"""Jobs as a client makes and steers them; here no worker carries them out."""

from __future__ import annotations

import time
from typing import Any

import openai as sdk
import pytest
from openai import OpenAI
from sqlalchemy import update

from residency.server.api.server import Server
from residency.server.database import queue
from residency.server.database.tables import Job


@pytest.fixture
def file(openai: OpenAI, rows: bytes) -> str:
    return openai.files.create(file=("t.jsonl", rows), purpose="fine-tune").id


def set_status(server: Server, job: str, status: str, *, held: bool = False) -> None:
    with server.database.write() as session:
        until = time.time() + 60 if held else 0.0
        session.execute(update(Job).where(Job.id == job).values(status=status, lease_until=until))


def test_a_job_says_what_was_asked(openai: OpenAI, file: str) -> None:
    job = openai.fine_tuning.jobs.create(
        model="gpt-4o-mini-2024-07-18", training_file=file, validation_file=file, suffix="weather", seed=7,
        metadata={"team": "a"}, method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
        extra_body={"residency": {"adapter": {"rank": 8}}},
    )  # fmt: skip
    assert job.status == "validating_files"
    assert (job.model, job.seed, job.training_file, job.error) == ("gpt-4o-mini-2024-07-18", 7, file, None)
    assert job.hyperparameters.n_epochs == 2
    assert job.hyperparameters.batch_size == "auto"
    assert job.method is not None
    assert job.method.type == "supervised"
    assert job.metadata == {"team": "a"}
    assert job.model_extra["residency"] == {"settings": {"adapter": {"rank": 8}}}  # type: ignore[index]
    assert openai.fine_tuning.jobs.retrieve(job.id) == job


def test_the_first_event_says_what_an_alias_stands_for(openai: OpenAI, file: str) -> None:
    job = openai.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file)
    (event,) = openai.fine_tuning.jobs.list_events(job.id).data
    assert event.message == f"Created fine-tuning job: {job.id}; `gpt-4o-mini` stands for smollm2-135m here"
    own = openai.fine_tuning.jobs.create(model="smollm2-135m", training_file=file)
    assert openai.fine_tuning.jobs.list_events(own.id).data[0].message == f"Created fine-tuning job: {own.id}"


def test_the_older_place_of_hyperparameters_counts_unless_a_method_is_given(openai: OpenAI, file: str) -> None:
    old = openai.fine_tuning.jobs.create(model="smollm2-135m", training_file=file, hyperparameters={"n_epochs": 3})
    assert old.hyperparameters.n_epochs == 3
    both = openai.fine_tuning.jobs.create(
        model="smollm2-135m", training_file=file, hyperparameters={"n_epochs": 3},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 4}},
                "dpo": {"hyperparameters": {"beta": 0.1}}},
    )  # fmt: skip
    assert both.hyperparameters.n_epochs == 4


@pytest.mark.parametrize("method", ["dpo", "reinforcement"])
def test_a_method_of_a_later_release_is_refused_by_name(openai: OpenAI, file: str, method: str) -> None:
    grader = {"grader": {"type": "string_check", "name": "g", "operation": "eq", "input": "a", "reference": "a"}}
    with pytest.raises(sdk.BadRequestError, match=rf"`{method}` arrives with Residency") as caught:
        openai.fine_tuning.jobs.create(
            model="smollm2-135m", training_file=file, method={"type": method, method: grader}  # type: ignore[misc]
        )  # fmt: skip
    assert caught.value.code == "method_not_available"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"training_file": "file-nothing"}, "training_file"),
        ({"validation_file": "file-nothing"}, "validation_file"),
        ({"model": "gpt-5"}, "model"),
        ({"model": "ft:gpt-4o-mini:residency::12345678"}, "model"),
        ({"model": "../../etc"}, "model"),
        ({"seed": -1}, "seed"),
        ({"suffix": "a" * 65}, "suffix"),
        ({"suffix": "a\r\nb"}, "suffix"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"hyperparameters": {"n_epochs": 51}}, "hyperparameters.n_epochs"),
    ],
)
def test_a_wrong_request_names_its_field(openai: OpenAI, file: str, change: dict, param: str) -> None:  # type: ignore[type-arg]
    with pytest.raises((sdk.BadRequestError, sdk.NotFoundError)) as caught:
        openai.fine_tuning.jobs.create(**({"model": "smollm2-135m", "training_file": file} | change))
    assert str(caught.value.param).startswith(param)
    assert openai.fine_tuning.jobs.list().data == []


def test_what_may_be_a_number_or_auto_is_said_in_one_sentence(openai: OpenAI, file: str) -> None:
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 0}}}
    with pytest.raises(sdk.BadRequestError) as caught:
        openai.fine_tuning.jobs.create(model="smollm2-135m", training_file=file, method=method)
    place = "method.supervised.hyperparameters.n_epochs"
    assert caught.value.param == place
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"] == (
        f"Invalid value for '{place}': Input should be greater than or equal to 1, or 'auto'"
    )


@pytest.mark.parametrize(
    ("asked", "param", "said"),
    [
        ({"residency": {"train": {"epoch": 3}}}, "residency.train.epoch",
         "the job: 1 problem; residency.train.epoch: unknown key; did you mean residency.train.epochs?"),
        ({"residency": {"adaptor": {"rank": 8}, "speed": {"threads": 0}}}, "residency.speed.threads",
         "the job: 2 problems; residency.speed.threads: must be at least 1, or auto (got 0); "
         "residency.adaptor: unknown key; did you mean residency.adapter?"),
        ({"residency": {"adapter": {"kind": "full"}}, "hyperparameters": {"lora_rank": 8}},
         "method.supervised.hyperparameters.lora_rank",
         "the job: 1 problem; method.supervised.hyperparameters.lora_rank: does not apply to this kind of adapter; "
         "leave it out"),
        ({"residency": {"train": {"learning_rate": "search"}}}, "residency.train.learning_rate",
         "the job: 1 problem; residency.train.learning_rate: search needs held-out rows to compare candidates on; give "
         "the job a validation_file, or leave it to auto"),
        ({"residency": ["adapter"]}, "residency", "Invalid value for 'residency': Input should be a valid dictionary"),
    ],
)  # fmt: skip
def test_settings_that_make_no_run_are_refused_before_there_is_a_job(
    openai: OpenAI, file: str, asked: dict[str, Any], param: str, said: str
) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        openai.fine_tuning.jobs.create(model="smollm2-135m", training_file=file, extra_body=asked)
    assert caught.value.body == {
        "message": said, "type": "invalid_request_error", "param": param, "code": caught.value.code,
    }  # fmt: skip
    assert openai.fine_tuning.jobs.list().data == []


def test_keys_that_nobody_knows_are_left_out_and_named(openai: OpenAI, file: str) -> None:
    """A key in the wrong place would else be a setting that silently does not hold."""
    method: Any = {"type": "supervised", "supervised": {"n_epochs": 3}}
    job = openai.fine_tuning.jobs.create(model="smollm2-135m", training_file=file, extra_body={"sed": 1}, method=method)
    warning, _ = openai.fine_tuning.jobs.list_events(job.id).data
    assert (warning.level, warning.message) == (
        "warn", "Keys that mean nothing here and are left out: sed, method.supervised.n_epochs",
    )  # fmt: skip


def test_jobs_are_filtered_by_metadata(openai: OpenAI, file: str) -> None:
    make = openai.fine_tuning.jobs.create
    a = make(model="smollm2-135m", training_file=file, metadata={"team": "a", "n": "1"}).id
    b = make(model="smollm2-135m", training_file=file, metadata={"team": "b"}).id
    none = make(model="smollm2-135m", training_file=file).id
    ids = lambda **query: [job.id for job in openai.fine_tuning.jobs.list(**query)]  # noqa: E731
    assert ids() == [none, b, a]
    assert ids(metadata={"team": "a", "n": "1"}) == [a]
    assert ids(metadata={"team": "a", "n": "2"}) == []
    assert ids(extra_query={"metadata": "null"}) == [none]


def test_events_come_newest_first_and_page_by_page(openai: OpenAI, server: Server, file: str) -> None:
    job = openai.fine_tuning.jobs.create(model="smollm2-135m", training_file=file).id
    with server.database.write() as session:
        for number in range(1, 6):
            queue.append_event(session, job, f"Step {number}/5", type="metrics", data={"step": number})
    events = list(openai.fine_tuning.jobs.list_events(job, limit=2))
    assert [event.data["step"] for event in events if event.data] == [5, 4, 3, 2, 1]  # type: ignore[index]
    assert events[0].type == "metrics"


def test_a_checkpoint_is_a_model(openai: OpenAI, server: Server, file: str) -> None:
    id = openai.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file).id
    name = "ft:gpt-4o-mini:residency::abcdefgh:ckpt-step-5"
    with server.database.write() as session:
        job = session.query(Job).filter_by(id=id).one()
        queue.record_checkpoint(session, job, name, "folder", step=5, metrics={"train_loss": 0.5})
    (checkpoint,) = openai.fine_tuning.jobs.checkpoints.list(id).data
    assert (checkpoint.fine_tuned_model_checkpoint, checkpoint.step_number) == (name, 5)
    assert checkpoint.metrics.train_loss == 0.5
    assert openai.models.retrieve(name).id == name
    further = openai.fine_tuning.jobs.create(model=name, training_file=file)
    with server.database.read() as session:
        row = session.query(Job).filter_by(id=further.id).one()
    assert (row.base, row.parent) == ("smollm2-135m", "folder")


def test_a_job_that_no_worker_holds_is_cancelled_at_once(openai: OpenAI, file: str) -> None:
    job = openai.fine_tuning.jobs.create(model="smollm2-135m", training_file=file)
    cancelled = openai.fine_tuning.jobs.cancel(job.id)
    assert cancelled.status == "cancelled"
    assert cancelled.finished_at is not None
    with pytest.raises(sdk.BadRequestError, match="already cancelled"):
        openai.fine_tuning.jobs.cancel(job.id)


def test_a_job_that_a_worker_holds_is_left_to_it(openai: OpenAI, server: Server, file: str) -> None:
    id = openai.fine_tuning.jobs.create(model="smollm2-135m", training_file=file).id
    set_status(server, id, "running", held=True)
    assert openai.fine_tuning.jobs.cancel(id).status == "running"
    with server.database.read() as session:
        assert session.query(Job).filter_by(id=id).one().wanted == "cancel"


def test_a_running_job_is_paused_by_its_worker_and_resumed_by_the_client(
    openai: OpenAI, server: Server, file: str
) -> None:
    id = openai.fine_tuning.jobs.create(model="smollm2-135m", training_file=file).id
    with pytest.raises(sdk.BadRequestError, match="cannot be paused yet"):
        openai.fine_tuning.jobs.pause(id)
    set_status(server, id, "running", held=True)
    assert openai.fine_tuning.jobs.pause(id).status == "running"
    set_status(server, id, "paused")
    assert openai.fine_tuning.jobs.resume(id).status == "queued"
    set_status(server, id, "succeeded")
    with pytest.raises(sdk.BadRequestError, match="already succeeded"):
        openai.fine_tuning.jobs.resume(id)


def test_an_unknown_job_is_not_found(openai: OpenAI) -> None:
    with pytest.raises(sdk.NotFoundError, match="Could not find fine tune: ftjob-x") as caught:
        openai.fine_tuning.jobs.retrieve("ftjob-x")
    assert (caught.value.param, caught.value.code) == ("fine_tune_id", "fine_tune_not_found")
    assert caught.value.request_id is not None
