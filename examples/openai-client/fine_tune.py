"""Fine-tunes a model on chat examples and measures it: a script as one writes it for OpenAI.

    python fine_tune.py train.jsonl test.jsonl

It names no server: the client reads OPENAI_BASE_URL and OPENAI_API_KEY.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

from openai import OpenAI

MODEL = "gpt-4o-mini-2024-07-18"
POLL_SECONDS = 2
ITEM = {
    "type": "object",
    "properties": {"messages": {"type": "array"}, "answer": {"type": "string"}},
    "required": ["messages", "answer"],
}
EXACT: Any = {
    "type": "string_check", "name": "exact", "operation": "eq",
    "input": "{{ sample.output_text }}", "reference": "{{ item.answer }}",
}  # fmt: skip

client = OpenAI()


def main() -> None:
    arguments = parse_arguments()
    tests = [split(json.loads(line)) for line in arguments.test.read_text().splitlines()]
    hyperparameters: Any = {
        "n_epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "learning_rate_multiplier": arguments.learning_rate_multiplier,
    }
    model = fine_tune(arguments.train, hyperparameters)
    chat(model, tests[0])
    compare([MODEL, model], tests)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    for name, kind in (("epochs", int), ("batch-size", int), ("learning-rate-multiplier", float)):
        parser.add_argument(f"--{name}", type=kind, default="auto")
    return parser.parse_args()


def split(row: dict[str, Any]) -> dict[str, Any]:
    """A chat example as a question and the answer that is wanted."""
    return {"messages": row["messages"][:-1], "answer": row["messages"][-1]["content"]}


def fine_tune(train: Path, hyperparameters: Any) -> str:
    with train.open("rb") as opened:
        file = client.files.create(file=opened, purpose="fine-tune")
    client.files.wait_for_processing(file.id)
    job = client.fine_tuning.jobs.create(
        model=MODEL, training_file=file.id, suffix="demo", seed=1, metadata={"from": "fine_tune.py"},
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
    )  # fmt: skip
    seen: set[str] = set()
    while True:
        job = client.fine_tuning.jobs.retrieve(job.id)
        for event in reversed(client.fine_tuning.jobs.list_events(job.id, limit=100).data):
            if event.id not in seen:
                seen.add(event.id)
                print(event.message)
        if job.status in ("succeeded", "failed", "cancelled"):
            break
        time.sleep(POLL_SECONDS)
    if job.fine_tuned_model is None:
        sys.exit(f"the job has {job.status}: {job.error and job.error.message}")
    print(f"job {job.id} has {job.status} after {job.trained_tokens} tokens: {job.fine_tuned_model}")

    for checkpoint in client.fine_tuning.jobs.checkpoints.list(job.id):
        loss = checkpoint.metrics.train_loss
        print(f"checkpoint {checkpoint.fine_tuned_model_checkpoint} at step {checkpoint.step_number}, loss {loss}")
    for result in job.result_files:
        rows = list(csv.DictReader(io.StringIO(client.files.content(result).text)))
        print(f"results of {len(rows)} steps: training loss from {rows[0]['train_loss']} to {rows[-1]['train_loss']}")
    return job.fine_tuned_model


def chat(model: str, test: dict[str, Any]) -> None:
    """Once as a whole, and once as it comes."""
    answer = client.chat.completions.create(model=model, messages=test["messages"], temperature=0, max_tokens=100)
    stream = client.chat.completions.create(
        model=model, messages=test["messages"], temperature=0, max_tokens=100, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    print(f"question {test['messages'][-1]['content']}")
    print(f"answer {answer.choices[0].message.content}")
    print(f"streamed {''.join(pieces)}")
    print(f"wanted {test['answer']}")


def compare(models: list[str], tests: list[dict[str, Any]]) -> None:
    items = "".join(json.dumps({"item": test}) + "\n" for test in tests)
    file = client.files.create(file=("tests.jsonl", items.encode()), purpose="evals")
    evaluation = client.evals.create(
        name="exact answers",
        data_source_config={"type": "custom", "item_schema": ITEM, "include_sample_schema": True},
        testing_criteria=[EXACT],
    )
    for model in models:
        run = client.evals.runs.create(
            evaluation.id,
            name=model,
            data_source={
                "type": "completions",
                "model": model,
                "source": {"type": "file_id", "id": file.id},
                "input_messages": {"type": "item_reference", "item_reference": "item.messages"},
                "sampling_params": {"temperature": 0, "max_completion_tokens": 100},
            },
        )
        while run.status not in ("completed", "failed", "canceled"):
            time.sleep(POLL_SECONDS)
            run = client.evals.runs.retrieve(run.id, eval_id=evaluation.id)
        counts = run.result_counts
        print(f"eval {model}: {run.status}, {counts.passed} of {counts.total} right, {counts.errored} errors")
        for item in client.evals.runs.output_items.list(run.id, eval_id=evaluation.id, status="fail", limit=3).data:
            said, wanted = item.sample.output[0].content, item.datasource_item["answer"]
            print(f"  wrong: {said!r} instead of {wanted!r}")


if __name__ == "__main__":
    main()
