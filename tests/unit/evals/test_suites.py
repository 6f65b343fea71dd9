"""Suites of lm-evaluation-harness through the engine; without the harness, a clear refusal."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from residency.data.messages import Origin, Rendered
from residency.engine.engine import Engine
from residency.errors import ConfigError, DataError
from residency.evals.compare import compare
from residency.evals.suites import measure_suite, require_harness
from tests.conftest import tiny_llama

INSTALLED = importlib.util.find_spec("lm_eval") is not None
pytestmark = pytest.mark.filterwarnings("ignore")  # the harness's own
needs_harness = pytest.mark.skipif(not INSTALLED, reason="lm-evaluation-harness is not installed")


class Letters:
    """One token a letter."""

    eos_token_id = 1
    chat_template = None

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) % 290 + 3 for letter in text]}

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(chr(one - 3) for one in ids)


@pytest.mark.skipif(INSTALLED, reason="lm-evaluation-harness is installed")
def test_without_the_harness_suites_are_refused_and_it_says_what_to_install() -> None:
    require_harness([])
    with pytest.raises(ConfigError, match="not installed") as error:
        require_harness(["arc_easy"])
    assert "residency[suites]" in str(error.value.hint)


@pytest.fixture
def tasks(tmp_path: Path) -> Any:
    from lm_eval.tasks import TaskManager

    rows = [
        {"question": f"{a} and {b} is", "choices": [f" {a + b}", f" {a * b + 9}"]} for a in range(5) for b in (2, 3)
    ]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sums.yaml").write_text(
        "task: sums\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'sums.jsonl'}}}}}\n"
        "output_type: multiple_choice\ntest_split: test\ndoc_to_text: '{{question}}'\ndoc_to_target: 0\n"
        "doc_to_choice: '{{choices}}'\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    return TaskManager(include_path=str(tmp_path), include_defaults=False)


@needs_harness
def test_a_suite_is_scored_row_by_row_as_the_engine_scores_it_and_paired(tasks: Any) -> None:
    engine, letters = Engine(tiny_llama()), Letters()
    found = measure_suite(engine, None, letters, "sums", "base", 8, tasks)
    assert (found.test, len(found.answers)) == ("suite:sums", 8)

    def score(text: str, choice: str) -> float:
        ids = np.array(letters(text + choice)["input_ids"], np.int32)
        row = Rendered(ids, np.arange(len(ids)) >= len(text), Origin("test", 1))
        return float(engine.logprobs(None, [row])[0].logprobs.sum())

    for row, answer in enumerate(found.answers):
        a, b = divmod(row, 2)
        text, right, wrong = f"{a} and {b + 2} is", f" {a + b + 2}", f" {a * (b + 2) + 9}"
        assert answer.grades["acc"].passed == (score(text, right) > score(text, wrong))
    [paired] = compare(found, found.model_copy(update={"model": "tuned"}))
    assert paired.gain.value == 0


@needs_harness
def test_a_suite_that_is_not_there_is_named(tasks: Any) -> None:
    with pytest.raises(DataError, match="no_such_task"):
        measure_suite(Engine(tiny_llama()), None, Letters(), "no_such_task", "base", 5, tasks)
