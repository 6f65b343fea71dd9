"""`kill -9` of each process of a server, at twenty random moments each, while clients use it."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from openai import APIError, OpenAI
from sqlalchemy import func, select

from residency.server.conformance import JOB
from residency.server.database.connect import open_database
from residency.server.database.tables import Checkpoint, Job, JobEvent, Model
from residency.server.trainer_null import ENDS, STARTS, STEPS
from tests.e2e.server.serving import Server, serve, steps, wait_until
from tests.e2e.tiny import make_model_folder, rows
from tests.integration.server.rig import OVER, jsonl

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

KILLS = 20
CLIENTS = 4
IMPATIENT = "from residency.server import supervise; supervise.MOST_BACKOFF_SECONDS = 1.0; "
"""Who dies twenty times within minutes would be started again later and later."""
SAID_ONCE = ("Fine-tuning job started", "New fine-tuned model created", "The job has successfully completed")


def kill_trainer(server: Server) -> bool:
    """The one that trains at this moment; false where none does."""
    with suppress(psutil.Error):
        for process in psutil.Process(server.process.pid).children(recursive=True):
            if "residency.server.trainer_null" in process.cmdline():
                process.kill()
                return True
    return False


def kill(server: Server, name: str) -> None:
    if name == "trainer":
        wait_until(lambda: kill_trainer(server))
    else:
        wait_until(lambda: server.child(name) is not None)
        server.kill(name)


@contextmanager
def busy(clients: int, work: Callable[[threading.Event], Any]) -> Iterator[list[Future[Any]]]:
    """So many clients at work until the block is left; what they meet is theirs to raise."""
    stopping = threading.Event()
    with ThreadPoolExecutor(clients) as pool:
        done = [pool.submit(work, stopping) for _ in range(clients)]
        try:
            yield done
        finally:
            stopping.set()


def train_one_after_the_other(client: OpenAI, file: str, stopping: threading.Event) -> list[str]:
    jobs = []
    while not stopping.is_set():
        job = client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file).id
        jobs.append(job)
        wait_until(lambda job=job: client.fine_tuning.jobs.retrieve(job).status in OVER)  # type: ignore[misc]
        assert steps(client, job) == list(range(STEPS, 0, -1))
    return jobs


def test_no_job_is_lost_trained_twice_or_stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIDENCY_NULL_TRAINING_SECONDS", "0.4")
    moments, home = random.Random(1), tmp_path / "home"
    victims = ["api", "worker", "trainer"] * KILLS
    moments.shuffle(victims)
    with serve(home, "--conformance-fixtures", before=IMPATIENT) as server:
        client = server.client()
        file = client.files.create(file=("train.jsonl", jsonl(rows(10))), purpose="fine-tune").id
        began = time.monotonic()
        with busy(CLIENTS, lambda stopping: train_one_after_the_other(client, file, stopping)) as clients:
            for name in victims:
                time.sleep(moments.uniform(0.2, 2.0))
                kill(server, name)
            killed_within = time.monotonic() - began
        told = [job for one in clients for job in one.result()]
        assert server.stop() == 0
    made = assert_each_ended_once(home)
    assert set(told) <= set(made), "a client knows a job that is not there"
    repeated = sum(count_lines(home / "work" / job / STARTS) > 1 for job in made)
    print(f"{len(victims)} kills within {killed_within:.0f} s; {len(made)} jobs, of which {repeated} began again; "
          f"{len(made) - len(told)} whose answer a client did not get")  # fmt: skip
    assert repeated, "no kill met a job"


def assert_each_ended_once(home: Path) -> list[str]:
    database = open_database(f"sqlite:///{home / 'server.db'}")
    with database.read() as session:
        jobs = session.scalars(select(Job).where(Job.id != JOB)).all()
        assert {job.status for job in jobs} == {"succeeded"}
        for message in SAID_ONCE:
            said = select(JobEvent.job_id, func.count()).where(JobEvent.message.startswith(message))
            counts = session.execute(said.group_by(JobEvent.job_id)).all()
            assert {tuple(one) for one in counts} == {(job.id, 1) for job in jobs}, message
        for table in (Model, Checkpoint):
            found = session.execute(select(table.job_id, func.count()).where(table.job_id.is_not(None))
                                    .group_by(table.job_id)).all()  # fmt: skip
            assert {tuple(one) for one in found} == {(job.id, 1) for job in jobs}
    database.close()
    assert {count_lines(home / "work" / job.id / ENDS) for job in jobs} == {1}, "trained to its end once"
    return [job.id for job in jobs]


def count_lines(path: Path) -> int:
    return len(path.read_text().splitlines())


# ---- the inference process


EXACT: Any = {"type": "string_check", "name": "exact", "operation": "eq", "input": "{{ sample.output_text }}",
              "reference": "{{ item.answer }}"}  # fmt: skip
ROWS = 40
ENDED = ("completed", "failed", "canceled")
TRIES = 200
"""Of the client, for one answer: the base is loaded anew after each kill, and a loaded machine takes its time."""
HANGS_AFTER_SECONDS = 100.0


class Chats:
    """What the clients heard."""

    def __init__(self) -> None:
        self.answers: set[tuple[str, str]] = set()
        self.counts = Counter[str]()
        self.longest_seconds = 0.0

    def answered(self) -> int:
        return self.counts["whole"] + self.counts["streamed"]

    def go_on(self, client: OpenAI, models: list[str], stream: bool, stopping: threading.Event) -> None:
        """The same question to one model after the other; a stream that broke off is asked for again."""
        kind = "streamed" if stream else "whole"
        for model in itertools.cycle(models):
            if stopping.is_set():
                return
            began = time.monotonic()
            try:
                self.answers.add((model, streamed(client, model) if stream else whole(client, model)))
                self.counts[kind] += 1
            except APIError as error:
                if not stream or error.code != "inference_unavailable":  # any other answer it asks for again itself
                    raise
                self.counts["broken streams"] += 1
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)


def question(model: str) -> Any:
    return {"model": model, "messages": [{"role": "user", "content": "red 7"}], "temperature": 0, "max_tokens": 24}


def whole(client: OpenAI, model: str) -> str:
    return client.chat.completions.create(**question(model)).choices[0].message.content or ""


def streamed(client: OpenAI, model: str) -> str:
    chunks = list(client.chat.completions.create(**question(model), stream=True))
    assert chunks[-1].choices[0].finish_reason, "a stream that was cut looks whole"
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def tune(client: OpenAI) -> list[str]:
    """Three adapters: the ends of three epochs."""
    file = client.files.create(file=("train.jsonl", jsonl(rows(30))), purpose="fine-tune").id
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": 2}}}
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file, method=method).id
    wait_until(lambda: client.fine_tuning.jobs.retrieve(job).status in OVER)
    made = [one.fine_tuned_model_checkpoint for one in client.fine_tuning.jobs.checkpoints.list(job)]
    assert len(made) == 3
    return made


def start_eval(client: OpenAI, model: str) -> tuple[str, str]:
    evaluation = client.evals.create(
        data_source_config={"type": "custom", "item_schema": {"type": "object"}}, testing_criteria=[EXACT]
    ).id
    template: Any = {"type": "template", "template": [{"role": "user", "content": "{{ item.question }}"}]}
    content: Any = [{"item": {"question": f"red {number}", "answer": "fire"}} for number in range(ROWS)]
    run = client.evals.runs.create(evaluation, data_source={
        "type": "completions", "model": model, "input_messages": template,
        "sampling_params": {"temperature": 0, "max_completion_tokens": 24},
        "source": {"type": "file_content", "content": content}})  # fmt: skip
    return evaluation, run.id


def assert_ended_well(client: OpenAI, evaluation: str, run: str) -> None:
    wait_until(lambda: client.evals.runs.retrieve(run, eval_id=evaluation).status in ENDED)
    done = client.evals.runs.retrieve(run, eval_id=evaluation)
    items = list(client.evals.runs.output_items.list(run, eval_id=evaluation, limit=100))
    assert (done.status, done.result_counts.total, done.result_counts.errored) == ("completed", ROWS, 0)
    assert sorted(item.datasource_item_id for item in items) == list(range(ROWS))


def test_no_chat_and_no_eval_is_lost_with_the_inference_process(tmp_path: Path) -> None:
    moments, chats = random.Random(2), Chats()
    alias = f"tiny={make_model_folder(tmp_path / 'model')}"
    with serve(tmp_path / "home", "--alias", alias, before=IMPATIENT) as server:
        client = server.client(max_retries=TRIES)
        server.wait_for_models()
        models = ["tiny", *tune(client)]
        runs = []
        kinds = itertools.cycle([True, False])
        with busy(CLIENTS, lambda stopping: chats.go_on(client, models, next(kinds), stopping)) as clients:
            for number in range(KILLS):
                runs.append(start_eval(client, models[number % len(models)]))
                before = chats.answered()
                wait_until(lambda: chats.answered() >= before + CLIENTS)  # noqa: B023
                time.sleep(moments.uniform(0.0, 1.0))
                server.kill("inference")
        for one in clients:
            one.result()
        for evaluation, run in runs:
            assert_ended_well(client, evaluation, run)
        chats.go_on(client.with_options(max_retries=0), models, False, a_moment(5.0))
    print(f"{KILLS} kills; {dict(chats.counts)}, the slowest {chats.longest_seconds:.0f} s; {len(runs)} evals")
    assert chats.longest_seconds < HANGS_AFTER_SECONDS
    assert len(chats.answers) == len(models), "the same question to a model has the same answer"


def a_moment(seconds: float) -> threading.Event:
    over = threading.Event()
    threading.Timer(seconds, over.set).start()
    return over
