"""`residency advise` on a tiny model, from the examples to the run, and on to the pilots."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from residency.config.load import load_run
from residency.engine.engine import Engine
from residency.stages import facts, survey
from residency.stages.trial import StepTime
from residency.wording import duration, memory
from tests.e2e.conftest import residency, write_run
from tests.e2e.tiny import rows, write_rows


@pytest.fixture
def task(project: Path, tiny_model: Path) -> Path:
    write_rows(project / "examples.jsonl", rows(100))
    return write_run(
        project / "task.yaml", name="colors", model={"id": str(tiny_model)}, examples="examples.jsonl", batch_size=128
    )


def test_a_task_becomes_a_page_and_a_run_that_trains(task: Path) -> None:
    outcome = residency("advise", "task.yaml")
    assert outcome.exit_code == 0, outcome.stderr
    for part in (
        "Fine-tune",
        "What was measured",
        "What would change this advice",
        "residency train advice/colors/run",
        "trains all weights here",
    ):
        assert part in outcome.stdout
    assert "zero-shot: 0% of 20 development rows right" in outcome.stderr
    assert "min left)" in outcome.stderr
    assert Path("advice/colors/advice.md").read_text().startswith("# Fine-tune\n")
    config = load_run(Path("advice/colors/run.yaml"))
    assert config.adapter.kind == "auto"
    assert config.eval.few_shot in (0, 4, 8)
    trained = {json.loads(line)["prompt"] for line in Path(config.data.train).read_text().splitlines()}
    tested = {json.loads(line)["prompt"] for line in Path("advice/colors/test.jsonl").read_text().splitlines()}
    assert (len(trained), len(tested)) == (50, 50)
    assert not trained & tested


def test_a_lone_file_of_examples_is_enough_and_json_is_one_object(task: Path, tiny_model: Path) -> None:
    outcome = residency("advise", "examples.jsonl", "--model", tiny_model, "--json", "--set", "batch_size=128")
    assert outcome.exit_code == 0, outcome.stderr
    advice = outcome.json["advice"]
    assert advice["decision"]["choice"] == "fine-tune"
    assert advice["evidence"]["rows"] == {"train": 50, "dev": 25, "test": 50}
    estimate = residency("estimate", "advice/examples/run.yaml", "--json").json
    assert advice["proposal"]["memory_bytes"] > 1_000_000
    assert advice["proposal"]["steps"] == estimate["steps"]


def test_the_page_and_estimate_show_the_same_method_and_the_same_need(
    task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given one speed of the machine, which is else measured each time; the measured model's memory is free again."""

    def engines() -> int:
        return sum(type(thing) is Engine for thing in gc.get_objects())

    before, then = engines(), []

    def one_speed(*_: object) -> StepTime:
        then.append(engines())
        return StepTime(0.25, 0.2, 0.3)

    monkeypatch.setattr(survey, "measure", one_speed)
    monkeypatch.setattr(facts, "compare_precisions", lambda *_: (False, "As fast as fp32."))
    monkeypatch.setattr(facts, "available_bytes", lambda device: 8_000_000_000)
    proposal = residency("advise", "task.yaml", "--json").json["advice"]["proposal"]
    estimate = residency("estimate", proposal["run_file"], "--json").json
    assert proposal["adapter"] == estimate["config"]["adapter"]["kind"] == "full"
    assert proposal["adapter_reason"] == estimate["reasons"]["adapter.kind"]
    for own, name in (("steps", "steps"), ("seconds", "seconds"), ("memory_bytes", "total_bytes"), ("basis", "basis")):
        assert proposal[own] == estimate[name], own
    text = Path("advice/colors/advice.md").read_text()
    assert f"{duration(estimate['seconds'])} of training here and {memory(estimate['total_bytes'])} of memory" in text
    assert estimate["reasons"]["adapter.kind"] in text
    assert then[0] <= before


def test_ctrl_c_loses_nothing(task: Path) -> None:
    # A shell starts programs in the background with SIGINT ignored, and children inherit that.
    hear = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{hear}; import sys; from residency.cli import main; sys.exit(main())"
    child = subprocess.Popen(
        [sys.executable, "-c", program, "advise", "task.yaml", "--set", "batch_size=4"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    answers, deadline = Path("advice/colors/answers.jsonl"), time.monotonic() + 120
    while not answers.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 130, stderr
    assert "nothing is lost: the same command goes on" in stderr
    before = answers.read_text().splitlines()
    assert before
    outcome = residency("advise", "task.yaml", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    assert answers.read_text().splitlines()[: len(before)] == before
    assert outcome.json["advice"]["answers"] < 7 * 20 + 3 * 5 + 50 + 400 - len(before) + 1


@pytest.mark.slow
def test_pilots_say_what_more_rows_would_bring(task: Path) -> None:
    command = ["advise", "task.yaml", "--pilots", "--json"]
    outcome = residency(*command)
    assert outcome.exit_code == 0, outcome.stderr
    forecast = outcome.json["forecast"]
    assert list(forecast["shares"]) == ["12", "25", "50"]
    assert forecast["then"] == 100
    assert "## How many examples" in Path("advice/colors/advice.md").read_text()
    assert outcome.stderr.count('"kind":"model"') == 4
    again = residency(*command)
    assert again.json["forecast"] == forecast
    assert '"kind":"model"' not in again.stderr


def test_too_few_examples_lead_to_more_of_them_and_not_to_pilots_that_would_be_refused(task: Path) -> None:
    write_rows(Path("examples.jsonl"), rows(24))
    outcome = residency("advise", "task.yaml")
    assert outcome.exit_code == 0, outcome.stderr
    page = Path("advice/colors/advice.md").read_text()
    assert "Write down more examples first, and ask again: pilots (--pilots) need 32 rows to train on" in page
    assert "Were these shares those of enough rows, the choice would be" in page


def test_what_cannot_be_advised_on_is_named(task: Path, tiny_model: Path) -> None:
    write_rows(Path("few.jsonl"), rows(5))
    few = residency("advise", "few.jsonl", "--model", tiny_model)
    assert (few.exit_code, "5 examples: too few" in few.stderr) == (3, True)
    similarity = 'graders=[{"type": "text_similarity"}]'
    vague = residency("advise", "task.yaml", "--set", similarity)
    assert (vague.exit_code, "no grader says whether an answer is right" in vague.stderr) == (8, True)
    unknown = residency("advise", "task.yaml", "--set", "targt=0.5")
    assert (unknown.exit_code, "did you mean target" in unknown.stderr) == (2, True)
    nobody = residency("advise", "task.yaml", "--model-name", "x")
    assert (nobody.exit_code, "add --model-url" in nobody.stderr) == (2, True)
    ahead = residency("advise", "task.yaml", "--times", "4")
    assert (ahead.exit_code, "add --pilots" in ahead.stderr) == (2, True)
    nothing = residency("advise", "nothing.yaml")
    assert (nothing.exit_code, "an existing task file, such as task.yaml" in nothing.stderr) == (2, True)


def test_a_forecast_too_far_ahead_is_refused_before_anything_is_measured(task: Path) -> None:
    for times in ("5", "1"):
        outcome = residency("advise", "task.yaml", "--pilots", "--times", times)
        assert (outcome.exit_code, "more than 1 and at most 4 times" in outcome.stderr) == (2, True)
    assert not Path("advice").exists()
