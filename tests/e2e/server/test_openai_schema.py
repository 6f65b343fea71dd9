"""Every answer of `residency serve`, from a real job, real chats and real evals, against OpenAI's published schema."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai as sdk
import pytest
from openai import OpenAI

from residency.server.database.connect import open_database
from residency.server.keys import find_project
from tests.contract.test_compatibility import OPERATIONS
from tests.e2e.server.openai_schema import CONTRADICTIONS, Difference, contradiction_of, differences, operation_of
from tests.e2e.server.serving import serve, steps, wait_until
from tests.e2e.tiny import make_model_folder, rows
from tests.integration.server.rig import jsonl

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

MODEL = "gpt-4o-mini-2024-07-18"
ASKED: Any = [{"role": "user", "content": "red 7"}]
EXACT: Any = {"type": "string_check", "name": "exact", "operation": "eq", "input": "{{ sample.output_text }}",
              "reference": "{{ item.answer }}"}  # fmt: skip
ALIKE: Any = {"type": "text_similarity", "name": "alike", "input": "{{ sample.output_text }}",
              "reference": "{{ item.answer }}", "evaluation_metric": "fuzzy_match", "pass_threshold": 0.8}  # fmt: skip
SCHEMA: Any = {"type": "json_schema", "json_schema": {"name": "color", "strict": True, "schema": {
    "type": "object", "properties": {"color": {"enum": ["red", "blue"]}}, "required": ["color"],
    "additionalProperties": False}}}  # fmt: skip


class Answers:
    """All that the server has said, and what OpenAI's schema would have otherwise."""

    def __init__(self) -> None:
        self.operations: set[str] = set()
        self.differences: list[Difference] = []

    def take(self, response: httpx.Response) -> None:
        response.read()
        if not response.request.url.path.startswith("/v1/"):
            return
        self.differences += differences(response)
        if response.is_success:
            self.operations.add(operation_of(response.request))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    folder, found = tmp_path_factory.mktemp("server"), Answers()
    other = other_project(folder / "home")
    alias = f"gpt-4o-mini*={make_model_folder(folder / 'model')}"
    with serve(folder / "home", "--alias", alias) as server:
        http = httpx.Client(event_hooks={"response": [found.take]}, timeout=120)
        with server.client(http_client=http, max_retries=0) as client:
            file = client.files.create(file=("train.jsonl", jsonl(rows(30))), purpose="fine-tune").id
            tuned = fine_tune(client, file)
            server.wait_for_models()
            for talk in (files, uploads, steer_jobs, grade, complete, refuse):
                talk(client, file, tuned)
            share(client, tuned, other)
            chat(client, tuned)
            evaluate(client, tuned)
            send_batches(client, tuned)
            client.models.delete(tuned)
    return found


def other_project(home: Path) -> str:
    """Somebody to share with."""
    home.mkdir()
    database = open_database(f"sqlite:///{home / 'server.db'}")
    with database.write() as session:
        id = find_project(session, "other").id
    database.close()
    return id


def fine_tune(client: OpenAI, file: str) -> str:
    job = client.fine_tuning.jobs.create(
        model=MODEL, training_file=file, validation_file=file, suffix="colors", seed=1, metadata={"a": "b"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": 2}}},
    ).id  # fmt: skip
    wait_until(lambda: len(steps(client, job)) > 3)
    client.fine_tuning.jobs.pause(job)
    wait_until(lambda: client.fine_tuning.jobs.retrieve(job).status == "paused")
    client.fine_tuning.jobs.resume(job)
    done = ended(lambda: client.fine_tuning.jobs.retrieve(job))
    assert done.status == "succeeded", done.error
    client.fine_tuning.jobs.list_events(job, limit=1000)
    assert len(client.fine_tuning.jobs.checkpoints.list(job).data) >= 3
    client.fine_tuning.jobs.list()
    client.files.content(done.result_files[0])
    client.models.list()
    client.models.retrieve(done.fine_tuned_model)
    return str(done.fine_tuned_model)


def ended(ask: Callable[[], Any]) -> Any:
    wait_until(lambda: ask().status in ("succeeded", "failed", "cancelled", "completed", "canceled"))
    return ask()


def files(client: OpenAI, file: str, tuned: str) -> None:
    client.files.retrieve(file)
    for purpose in ("assistants", "vision", "user_data", "evals"):
        client.files.create(file=b"x", purpose=purpose, expires_after={"anchor": "created_at", "seconds": 3600})
    client.files.list()
    client.files.list(purpose="batch_output")
    client.files.delete(client.files.create(file=b"x", purpose="user_data").id)


def uploads(client: OpenAI, file: str, tuned: str) -> None:
    content, form = jsonl(rows(10)), {"filename": "t.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}
    upload = client.uploads.create(bytes=len(content), **form)  # type: ignore[arg-type]
    part = client.uploads.parts.create(upload.id, data=content)
    client.uploads.complete(upload.id, part_ids=[part.id], md5=hashlib.md5(content).hexdigest())
    client.uploads.cancel(client.uploads.create(bytes=1, **form).id)  # type: ignore[arg-type]


def steer_jobs(client: OpenAI, file: str, tuned: str) -> None:
    """One that is cancelled, one that fails, and one that goes on from another."""
    wandb: Any = [{"type": "wandb", "wandb": {"project": "p", "tags": ["t"]}}]
    job = client.fine_tuning.jobs.create(model=tuned, training_file=file, integrations=wandb)
    client.fine_tuning.jobs.cancel(job.id)
    short = client.files.create(file=("t.jsonl", jsonl(rows(3))), purpose="fine-tune").id
    failed = client.fine_tuning.jobs.create(model=MODEL, training_file=short)
    assert ended(lambda: client.fine_tuning.jobs.retrieve(failed.id)).status == "failed"
    client.fine_tuning.jobs.list_events(failed.id)
    client.fine_tuning.jobs.checkpoints.list(failed.id)
    client.fine_tuning.jobs.list()


def share(client: OpenAI, tuned: str, project: str) -> None:
    permissions = client.fine_tuning.checkpoints.permissions
    permissions.list(tuned)
    given = permissions.create(tuned, project_ids=[project]).data[0].id
    permissions.list(tuned)
    permissions.delete(given, fine_tuned_model_checkpoint=tuned)


def grade(client: OpenAI, file: str, tuned: str) -> None:
    graders = client.fine_tuning.alpha.graders
    multi: Any = {"type": "multi", "name": "both", "graders": {"a": EXACT, "b": ALIKE}, "calculate_output": "a + b"}
    python: Any = {"type": "python", "name": "p", "source": "def grade(sample, item):\n    return 1 / item['zero']"}
    for grader in (EXACT, ALIKE, multi, python):
        graders.validate(grader=grader)
        graders.run(grader=grader, model_sample="fire", item={"answer": "fire", "zero": 0})


def complete(client: OpenAI, file: str, tuned: str) -> None:
    client.completions.create(model=tuned, prompt="red", max_tokens=4, logprobs=2, echo=True, n=2)
    list(client.completions.create(model=tuned, prompt="red", max_tokens=4, stream=True,
                                   stream_options={"include_usage": True}))  # fmt: skip


def refuse(client: OpenAI, file: str, tuned: str) -> None:
    for wrong in (
        lambda: client.files.retrieve("file-none"),
        lambda: client.fine_tuning.jobs.retrieve("ftjob-none"),
        lambda: client.fine_tuning.jobs.create(model="gpt-none", training_file=file),
        lambda: client.fine_tuning.jobs.create(model=MODEL, training_file=file, suffix="!" * 99),
        lambda: client.chat.completions.create(model=MODEL, messages=ASKED, temperature=9),
        lambda: client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x " * 2000}]),
        lambda: client.evals.create(data_source_config={"type": "custom", "item_schema": {}}, testing_criteria=[{}]),
    ):
        with pytest.raises(sdk.APIStatusError):
            wrong()


def chat(client: OpenAI, tuned: str) -> None:
    ask = client.chat.completions.create
    ask(model=tuned, messages=ASKED, n=2, logprobs=True, top_logprobs=3, max_completion_tokens=4)
    ask(model=tuned, messages=ASKED, response_format=SCHEMA, max_completion_tokens=40)
    list(ask(model=tuned, messages=ASKED, stream=True, logprobs=True, stream_options={"include_usage": True}))
    kept = ask(model=tuned, messages=ASKED, store=True, metadata={"a": "b"}, max_completion_tokens=4).id
    completions = client.chat.completions
    completions.list()
    completions.list(model="none")
    completions.retrieve(kept)
    completions.update(kept, metadata={"a": "c"})
    completions.messages.list(kept)
    completions.delete(kept)


def evaluate(client: OpenAI, tuned: str) -> None:
    made = client.evals.create(
        name="colors", testing_criteria=[EXACT, ALIKE], metadata={"a": "b"},
        data_source_config={"type": "custom", "item_schema": {"type": "object"}, "include_sample_schema": True},
    ).id  # fmt: skip
    client.evals.update(made, name="all colors")
    client.evals.retrieve(made)
    client.evals.list()
    client.evals.runs.list(made)
    asking: Any = {
        "type": "completions", "model": tuned, "sampling_params": {"temperature": 0.5, "max_completion_tokens": 8},
        "input_messages": {"type": "template", "template": [{"role": "user", "content": "{{ item.question }}"}]},
        "source": {"type": "file_content", "content": [{"item": {"question": "red 9", "answer": "fire"}},
                                                       {"item": {"question": "x " * 2000, "answer": "far too long"}}]},
    }  # fmt: skip
    graded: Any = {"type": "jsonl", "source": {"type": "file_content", "content": [
        {"item": {"answer": "a"}, "sample": {"output_text": "b"}}, {"item": {"answer": "a"}}]}}  # fmt: skip
    missing = asking | {"source": {"type": "file_content", "content": [{"item": {}}]}}
    for source in (asking, graded, missing):
        run = client.evals.runs.create(made, name="r", data_source=source, metadata={"a": "b"}).id
        ended(lambda run=run: client.evals.runs.retrieve(run, eval_id=made))  # type: ignore[misc]
        for item in client.evals.runs.output_items.list(run, eval_id=made):
            client.evals.runs.output_items.retrieve(item.id, eval_id=made, run_id=run)
    client.evals.runs.list(made)
    client.evals.runs.cancel(run, eval_id=made)
    client.evals.runs.delete(run, eval_id=made)
    client.evals.delete(made)


def send_batches(client: OpenAI, tuned: str) -> None:
    body = {"model": tuned, "messages": ASKED, "max_tokens": 4}
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    for content in ("{", json.dumps(line)):
        file = client.files.create(file=("b.jsonl", content.encode()), purpose="batch").id
        batch = client.batches.create(
            input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h", metadata={"a": "b"}
        ).id
        ended(lambda batch=batch: client.batches.retrieve(batch))  # type: ignore[misc]
    waiting = client.batches.create(input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h").id
    client.batches.cancel(waiting)
    client.batches.list()
    client.files.list()


def test_no_answer_differs_but_where_the_schema_contradicts_itself(answers: Answers) -> None:
    found = {one for one in answers.differences if contradiction_of(one) is None}
    assert not found, "\n".join(map(str, sorted(found)))


def test_every_contradiction_was_met(answers: Answers) -> None:
    met = {contradiction_of(one) for one in answers.differences}
    assert set(CONTRADICTIONS) <= met


def test_every_endpoint_has_answered(answers: Answers) -> None:
    print(f"{len(answers.operations)} operations")
    names = {f"{method} {open_places(path)}" for method, path, _ in OPERATIONS}
    assert names - answers.operations == set()


def open_places(path: str) -> str:
    """As the schema names it, which cancels a run at the run's own address."""
    parts = ["{}" if part.startswith("{") else part for part in path.split("/")]
    return "/".join(parts).replace("/evals/{}/runs/{}/cancel", "/evals/{}/runs/{}")
