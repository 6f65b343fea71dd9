"""The official client while the processes of `residency serve` are killed one after the other."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.e2e.server.serving import serve, steps, wait_until
from tests.e2e.tiny import make_model_folder, rows
from tests.integration.server.rig import jsonl


@pytest.mark.timeout(1200)
@pytest.mark.slow
def test_a_job_outlives_every_process_of_its_server(tmp_path: Path) -> None:
    alias = f"gpt-4o-mini*={make_model_folder(tmp_path / 'model')}"
    home = tmp_path / "home"
    with serve(home, "--alias", alias) as server:
        client = server.client()
        file = client.files.create(file=("train.jsonl", jsonl(rows(30))), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model="gpt-4o-mini-2024-07-18", training_file=file.id, suffix="colors",
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 20, "batch_size": 2}}},
        ).id  # fmt: skip
        wait_until(lambda: len(steps(client, job)) > 20)
        for name in ("worker", "api", "inference"):
            server.kill(name)
        wait_until(lambda: len(steps(client, job)) > 60)
        assert server.stop(signal.SIGINT) == 0
        assert "server    stopping" in server.log()
        assert "server    stopped" in server.log()
        assert "HTTP Request" not in server.log(), "a log that one can read"
        assert (home / "runs" / job / "error.json").exists(), "the trainer was stopped, and not only forgotten"

    with serve(home, "--alias", alias) as server:
        client = server.client()
        wait_until(lambda: client.fine_tuning.jobs.retrieve(job).status in ("succeeded", "failed", "cancelled"))
        done = client.fine_tuning.jobs.retrieve(job)
        assert done.status == "succeeded", done.error
        assert steps(client, job) == list(range(300, 0, -1))
        names = [one.fine_tuned_model_checkpoint for one in client.fine_tuning.jobs.checkpoints.list(job)]
        assert names[0] == done.fine_tuned_model
        server.wait_for_models()
        for name in names:
            answer = client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": "red 77"}], temperature=0, max_tokens=8
            )
            assert answer.choices[0].message.content == "fire"
