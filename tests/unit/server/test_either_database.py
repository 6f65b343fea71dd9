"""The API answers alike from SQLite, read in the event loop, and from PostgreSQL, read in threads."""

from __future__ import annotations

import json
from pathlib import Path

import openai as sdk
import pytest

from residency.server.api.app import build
from residency.server.keys import create_key
from residency.server.settings import Settings
from tests.unit.server.serving import client, served

ROW = {"messages": [{"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "2"}]}


def test_a_job_is_made_and_followed_on_either_database(database_url: str, tmp_path: Path) -> None:
    app = build(Settings(home=tmp_path, database=database_url))
    with app.state.server.database.write() as session:
        own, other = (create_key(session, "test", project, ("train", "read"))[1] for project in ("own", "other"))
    with served(app) as url, client(url, own) as openai:
        rows = 10 * (json.dumps(ROW).encode() + b"\n")
        file = openai.files.create(file=("t.jsonl", rows), purpose="fine-tune")
        assert openai.files.retrieve(file.id).bytes == len(rows)
        job = openai.fine_tuning.jobs.create(model="smollm2-135m", training_file=file.id)
        assert openai.fine_tuning.jobs.retrieve(job.id).training_file == file.id
        assert [one.id for one in openai.fine_tuning.jobs.list()] == [job.id]
        (event,) = openai.fine_tuning.jobs.list_events(job.id)
        assert job.id in event.message
        assert not list(openai.fine_tuning.jobs.checkpoints.list(job.id))
        with client(url, other) as stranger, pytest.raises(sdk.NotFoundError):
            stranger.fine_tuning.jobs.retrieve(job.id)
