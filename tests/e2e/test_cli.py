"""Whole runs through the command line, on a model small enough to train in seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import SpecialVocab
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from residency.data.messages import Example, Message, Origin
from residency.pipeline import open_session
from residency.records import RunFolder
from tests.e2e.conftest import residency
from tests.e2e.tiny import rows, write_rows

NO_CARD = ("--set", "eval.probes=0")
"""Most of a tiny run's time is the generalisation card; test_card.py has it."""


def test_two_keys_and_one_command_train_a_model(project: Path) -> None:
    outcome = residency("train", "run.yaml")
    assert outcome.exit_code == 0, outcome.stderr
    assert "train.learning_rate = " in outcome.stderr
    assert "54 rows to train on, 6 held out; chat format" in outcome.stderr
    assert outcome.stdout.endswith("report: runs/run/report.html\n")
    run = RunFolder(project / "runs" / "run")
    losses = [metric.loss for metric in run.metrics() if metric.split == "eval"]
    assert losses[-1] < 0.5 * losses[0]
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    assert "<html" in (run / "report.html").read_text()
    assert "Rows the run could not learn" in (run / "report.html").read_text()


def test_the_result_is_a_table_of_before_and_after(trained: Path) -> None:
    outcome = residency("eval", "colors", "--runs", trained / "runs")
    assert outcome.exit_code == 0, outcome.stderr
    for part in ("before", "after", "gain", "string_check", "won by string_check against base on test: "):
        assert part in outcome.stdout


def test_json_is_one_object_and_events_are_lines_of_json(project: Path) -> None:
    outcome = residency("train", "run.yaml", "--json", "--set", "train.max_steps=4", "--set", "data.test=test.jsonl")
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.json["summary"]["steps"] == 4
    assert {one["grader"] for one in outcome.json["comparisons"]} == {"string_check"}
    assert Path(outcome.json["report"]).is_file()
    kinds = [json.loads(line)["kind"] for line in outcome.stderr.splitlines()]
    assert {"auto", "data", "measured", "saved"} <= set(kinds)


def test_a_name_that_is_taken_gets_a_number(project: Path) -> None:
    paths = [
        residency("train", "run.yaml", "--json", "--set", "train.max_steps=1", *NO_CARD).json["run"] for _ in range(2)
    ]
    assert paths == ["runs/run", "runs/run-2"]


def start(*arguments: str) -> subprocess.Popen[str]:
    """`residency ...` as a process, which signals can be sent to."""
    program = "import sys; from residency.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def stop(child: subprocess.Popen[str], number: signal.Signals, *, once: Callable[[], bool]) -> str:
    """Sends the signal once the child has come that far; returns what it said."""
    deadline = time.monotonic() + 120
    while not once() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(number)
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 130, stderr
    assert "go on with the same command and --resume" in stderr
    assert "Traceback" not in stderr
    return stderr


def test_ctrl_c_leaves_a_checkpoint_and_resume_goes_on(project: Path) -> None:
    command = ["train", "run.yaml", "--set", "train.max_steps=120", "--set", "train.epochs=99"]
    command += ["--set", "train.patience=null", *NO_CARD]
    run = RunFolder(project / "runs" / "run")
    stderr = stop(start(*command), signal.SIGINT, once=lambda: len(run.metrics()) >= 5)
    assert "SIGINT after step" in stderr
    assert list((run / "checkpoints").glob("step-*"))

    outcome = residency(*command, "--resume")
    assert outcome.exit_code == 0, outcome.stderr
    assert "training goes on from step-" in outcome.stderr
    assert [metric.step for metric in run.metrics() if metric.split == "train"] == list(range(1, 121))
    assert not (run / "error.json").exists()


def test_sigterm_before_training_says_how_to_go_on(project: Path) -> None:
    command = ["train", "run.yaml", "--set", "train.max_steps=2", *NO_CARD]
    stop(start(*command), signal.SIGTERM, once=Path("runs/run/config.yaml").is_file)
    assert residency(*command, "--resume").exit_code == 0
    assert Path("runs/run/summary.json").is_file()


def test_eval_measures_another_test_and_renews_the_report(finished: Path) -> None:
    write_rows(Path("more.jsonl"), rows(9, start=300))
    outcome = residency("eval", "colors", "more.jsonl", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    (comparison,) = outcome.json["comparisons"]
    assert comparison["test"] == "more"
    assert comparison["after"]["n"] == 9
    assert comparison["after"]["value"] > comparison["before"]["value"]
    assert "more" in (finished / "report.md").read_text()
    again = residency("eval", "colors", "more.jsonl")
    assert again.exit_code == 2
    assert "a test named more already" in again.stderr


def test_report_is_written_again(finished: Path) -> None:
    (finished / "report.html").unlink()
    assert residency("report", "colors").stdout == "runs/colors/report.html\n"
    assert (finished / "report.html").is_file()


def test_runs_are_listed_and_shown(finished: Path) -> None:
    assert "colors  finished" in residency("runs").stdout
    shown = residency("runs", "show", "colors", "--json").json
    assert shown["summary"]["steps"] == 20
    assert shown["settings"]["adapter.rank"]["reason"].startswith("Rank 16")


def test_chat_answers_the_lines_of_a_pipe(finished: Path) -> None:
    outcome = residency("chat", "colors", stdin=b"red 400\n\n/reset\nblue 401\n/quit\ngreen 402\n")
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stdout == "fire\nsky\n"


def test_chat_shows_the_untuned_model_beside_the_tuned_one(finished: Path) -> None:
    outcome = residency("chat", "colors", "--base", "--json", "--max-new-tokens", "8", stdin=b"red 400\n")
    answers = outcome.json
    assert answers["answer"] == "fire"
    assert answers["finished"]
    assert answers["base"]["answer"] != "fire"
    columns = residency("chat", "colors", "--base", "--max-new-tokens", "8", stdin=b"red 400\n").stdout
    assert columns.split()[:2] == ["untuned", "tuned"]


def test_chat_keeps_the_system_text_that_all_rows_share(project: Path) -> None:
    system = {"role": "system", "content": "One word."}
    write_rows(project / "train.jsonl", [{"messages": [system, *row["messages"]]} for row in rows(30)])  # type: ignore[misc]
    assert residency("train", "run.yaml", "--set", "train.max_steps=1", *NO_CARD).exit_code == 0
    said = residency("chat", "run", "--max-new-tokens", "1", stdin=b"red 1\n").stderr
    assert "system text (that of all training rows; --system changes it): One word." in said


def test_chat_with_a_model(tiny_model: Path) -> None:
    outcome = residency("chat", tiny_model, "--json", "--max-new-tokens", "4", stdin=b"red 1\n")
    assert outcome.json["user"] == "red 1"
    assert outcome.json["tokens"] == 4


def test_check_shows_which_tokens_carry_loss(project: Path) -> None:
    outcome = residency("check", "run.yaml")
    assert outcome.exit_code == 0, outcome.stderr
    assert ">>>fire<|im_end|><<<" in outcome.stdout
    assert residency("check", "run.yaml", "--json").json["rows"] == {"train": 54, "eval": 6}
    assert residency("check", "train.jsonl", "--json").json["format"] == "chat"


def test_estimate_gives_memory_time_and_reasons(project: Path) -> None:
    outcome = residency("estimate", "run.yaml", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    assert sum(outcome.json["memory_bytes"].values()) == outcome.json["total_bytes"] > 0
    assert "train.batch_size" in outcome.json["reasons"]
    assert not Path("runs").exists()


def test_the_adapter_gives_the_same_logprobs_in_plain_peft(trained: Path, tiny_model: Path) -> None:
    run = RunFolder(trained / "runs" / "colors")
    session = open_session(run)
    question, answer = Message(role="user", content="red 7"), Message(role="assistant", content="fire")
    (row,) = session.renderer.render(Example(Origin("here", 1), (question, answer)))
    base = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    plain = PeftModel.from_pretrained(base, run / "adapter").eval()
    with torch.no_grad():
        logprobs = plain(input_ids=torch.tensor(row.input_ids[None].tolist())).logits[0].log_softmax(-1)
    expected = [float(logprobs[i - 1, row.input_ids[i]]) for i in range(len(row)) if row.trained[i]]
    (scores,) = session.engine.logprobs(session.adapter, [row])
    torch.testing.assert_close(torch.tensor(scores.logprobs), torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_export_copies_the_adapter(finished: Path) -> None:
    outcome = residency("export", "colors", "out")
    assert outcome.stdout == "adapter: out\n"
    for name in ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "chat_template.jinja"):
        assert Path("out", name).read_bytes() == (finished / "adapter" / name).read_bytes()


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ([], "read back by transformers alone"),
        (["adapter.kind=qlora"], "trained on a 4-bit base and is merged into the unquantised one"),
        (["model.chat_template=llama3"], "read back by transformers alone"),
        (["adapter.kind=full"], "the model itself was copied"),
    ],
    ids=["lora", "qlora", "new tokens", "full"],
)
def test_a_merged_export_stands_alone(settings: list[str], note: str, project: Path, tiny_model: Path) -> None:
    changes = [word for setting in ["train.max_steps=4", "eval.probes=0", *settings] for word in ("--set", setting)]
    assert residency("train", "run.yaml", *changes).exit_code == 0
    outcome = residency("export", "run", "out", "--merged")
    assert outcome.exit_code == 0, outcome.stderr
    assert note in outcome.stdout

    alone, tokenizer = AutoModelForCausalLM.from_pretrained("out").eval(), AutoTokenizer.from_pretrained("out")
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "red 1"}], add_generation_prompt=True,
                                          return_tensors="pt", return_dict=True)  # fmt: skip
    if settings != ["adapter.kind=full"]:
        base = AutoModelForCausalLM.from_pretrained(tiny_model)
        base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        plain = PeftModel.from_pretrained(base, "runs/run/adapter").eval()
        with torch.no_grad():
            torch.testing.assert_close(alone(**asked).logits, plain(**asked).logits, atol=1e-4, rtol=1e-4)
    ends = alone.generation_config.eos_token_id
    end = "<|eot_id|>" if "llama3" in str(settings) else "<|im_end|>"
    assert tokenizer.convert_tokens_to_ids(end) in (ends if isinstance(ends, list) else [ends])
    # What llama.cpp's converter takes into a GGUF, as its own library reads it.
    for_gguf = SpecialVocab("out", load_merges=True)
    assert for_gguf.chat_template == tokenizer.chat_template
    assert for_gguf.special_token_ids["eos"] == tokenizer.convert_tokens_to_ids(end)
    assert for_gguf.special_token_ids["pad"] == tokenizer.pad_token_id
    assert len(for_gguf.merges) == len(json.loads(Path("out", "tokenizer.json").read_text())["model"]["merges"])


def test_models_lists_the_starter_model() -> None:
    assert residency("models", "list", "--json").json["models"][0]["id"] == "smollm2-135m"
