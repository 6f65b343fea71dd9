"""Suites of lm-evaluation-harness (MMLU, ARC, HellaSwag ...), measured like any other test: row by row, so that before
and after are paired. Needs `pip install 'residency[suites]'`, and the suites' data.

The harness brings the tasks and their scoring; what it asks the model goes through the engine's own verbs.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from residency.data.messages import Origin, Rendered
from residency.engine.engine import Engine
from residency.engine.sampling import SamplingSettings
from residency.errors import ConfigError, DataError
from residency.evals.compare import SUITE
from residency.evals.run import summarise
from residency.records import Answer, EvalResult, Grade

METRICS = ("acc", "exact_match", "prompt_level_strict_acc")
LONGEST_SHOWN = 2000
NEW_TOKENS = 256


def require_harness(suites: Sequence[str]) -> None:
    """Raises ConfigError where suites are wanted and the harness is not installed."""
    if suites and importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("eval.suites needs lm-evaluation-harness, which is not installed", param="eval.suites",
                          hint="pip install 'residency[suites]'")  # fmt: skip


def measure_suite(
    engine: Engine, adapter: str | None, tokenizer: Any, suite: str, model: str, rows: int, tasks: Any = None
) -> EvalResult:
    """The first `rows` rows of the suite's tasks. Raises DataError where the harness cannot read it.

    `tasks` is the harness's TaskManager, for suites of one's own.
    """
    from lm_eval import simple_evaluate

    began = time.monotonic()
    try:
        found = simple_evaluate(model=_model(engine, adapter, tokenizer), tasks=[suite], limit=rows, bootstrap_iters=0,
                                log_samples=True, task_manager=tasks, verbosity="ERROR")  # fmt: skip
    except (OSError, ValueError, KeyError, ImportError) as error:  # no network, no such task, a package it wants
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"the suite {suite} cannot be read: {reason}", param="eval.suites",
                        hint="name tasks of the harness whose data can be fetched here") from error  # fmt: skip
    samples = [(task, one) for task, parts in sorted(found["samples"].items()) for one in parts]
    metric = next((name for name in METRICS if all(name in one for _, one in samples)), None)
    if not samples or metric is None:
        raise DataError(f"the suite {suite} gives none of {', '.join(METRICS)} for every row", param="eval.suites")
    answers = [_answer(row, task, one, metric) for row, (task, one) in enumerate(samples)]
    grades = [answer.grades[metric] for answer in answers]
    return EvalResult(test=f"{SUITE}{suite}", model=model, summaries={metric: summarise(grades)}, answers=answers,
                      seconds=time.monotonic() - began)  # fmt: skip


def _answer(row: int, task: str, sample: dict[str, Any], metric: str) -> Answer:
    score = float(sample[metric])
    passed = bool(score) if score in (0.0, 1.0) else None
    question = json.dumps(sample["doc"], default=str, ensure_ascii=False)[:LONGEST_SHOWN]
    return Answer(
        row=row, prompt=f"{task}: {question}", reference=str(sample["target"]), finished=True, tokens=0,
        output=str(sample["filtered_resps"])[:LONGEST_SHOWN], grades={metric: Grade(score=score, passed=passed)},
    )  # fmt: skip


def _model(engine: Engine, adapter: str | None, tokenizer: Any) -> Any:
    from lm_eval.api.model import TemplateLM

    class Asked(TemplateLM):  # type: ignore[misc]
        """The three questions of the harness, in the engine's verbs."""

        @property
        def eot_token_id(self) -> int:
            return int(tokenizer.eos_token_id)

        def tok_encode(self, string: str, **_: Any) -> list[int]:
            return list(tokenizer(string, verbose=False)["input_ids"])

        def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
            rows = [_row(context or [self.eot_token_id], wanted) for _, context, wanted in requests]
            return [
                (float(one.logprobs.sum(dtype=np.float64)), bool(one.correct.all()))
                for one in engine.logprobs(adapter, rows)
            ]

        def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
            rows = [_row([self.eot_token_id], self.tok_encode(one.args[0])) for one in requests]
            return [float(one.logprobs.sum(dtype=np.float64)) for one in engine.logprobs(adapter, rows)]

        def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
            """Greedy, whatever the task's temperature; cut at the task's own stop words."""
            prompts = [self.tok_encode(one.args[0]) for one in requests]
            longest = max(int(one.args[1].get("max_gen_toks", NEW_TOKENS)) for one in requests)
            answers = engine.sample(adapter, prompts, SamplingSettings(longest, (self.eot_token_id,)))
            texts = [str(tokenizer.decode(one.token_ids, skip_special_tokens=True)) for one in answers]
            return [_cut(text, one.args[1].get("until", [])) for text, one in zip(texts, requests, strict=True)]

    return Asked()


def _row(context: Sequence[int], wanted: Sequence[int]) -> Rendered:
    ids = np.array([*context, *wanted], dtype=np.int32)
    return Rendered(ids, np.arange(len(ids)) >= len(context), Origin("suite", 0))


def _cut(text: str, stops: str | Sequence[str]) -> str:
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.split(stop)[0] if stop else text
    return text
