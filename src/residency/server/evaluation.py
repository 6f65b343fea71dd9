"""Carries out eval runs: asks the model about each row, grades the answer, and keeps both.

Rows are done a block at a time, each block in one transaction with the note of how far the run is: a worker that takes
a run over goes on behind the last block.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import select

from residency.config.graders import Grader
from residency.data.json_rows import parse_json
from residency.errors import GraderError, RequestError, ResidencyError
from residency.graders.score import grade_all
from residency.graders.template import AnswerLacks, render
from residency.records import Grade
from residency.server.ask import UNAVAILABLE, Inference, refusal
from residency.server.database.queue import LeaseLost, keep, put_back, release
from residency.server.database.tables import Eval, EvalRun, File, OutputItem
from residency.server.grading import parse_grader, with_text
from residency.server.names import Target, resolve
from residency.server.worker_attempt import Desk
from residency.server.worker_pulse import pulse

BLOCK_ROWS = 16
SAMPLING = ("temperature", "top_p", "seed", "max_completion_tokens", "response_format", "tools")
NO_COUNTS = {"total": 0, "passed": 0, "failed": 0, "errored": 0}


class Row(NamedTuple):
    position: int
    item: dict[str, Any]
    sample: dict[str, Any]
    """What the row brings along; empty where a model is to be asked."""


class Answered(NamedTuple):
    row: Row
    sample: dict[str, Any]
    error: str | None


def carry_out(desk: Desk, run: EvalRun) -> None:
    """Ends the run as `completed`, `failed` or `canceled`.

    Gives it back when the worker is to stop, and where the inference process is away for long.
    """
    with Inference(desk.settings.inference_url) as inference, pulse(desk.database, run) as beating:
        try:
            evaluation = Evaluation(desk, run, inference)
            for block in evaluation.blocks():
                if beating.lost:
                    return
                if beating.wanted == "cancel":
                    end(desk, run, "canceled", evaluation)
                    return
                if desk.stopping.is_set():
                    give_back(desk, run)
                    return
                evaluation.do(block)
            end(desk, run, "completed", evaluation)
        except LeaseLost:
            return
        except ResidencyError as error:
            if error.code == UNAVAILABLE:
                give_back(desk, run)
                return
            with desk.database.write() as session:
                release(session, run, "failed", finished_at=time.time(),
                        error={"code": error.code, "message": str(error)})  # fmt: skip


class Evaluation:
    """One run: its rows, its graders, and what came of them so far. Raises RequestError, GraderError."""

    def __init__(self, desk: Desk, run: EvalRun, inference: Inference) -> None:
        self.desk, self.run, self.inference = desk, run, inference
        self.done: int = run.progress.get("rows", 0)
        self.counts: Counter[str] = Counter(run.progress.get("counts", {}))
        self.criteria: dict[str, dict[str, int]] = run.progress.get("criteria", {})
        self.usage: Counter[str] = Counter(run.progress.get("usage", {}))
        with desk.database.write() as session:
            keep(session, run, status="in_progress", started_at=run.started_at or time.time())
            criteria = session.scalars(select(Eval.testing_criteria).where(Eval.id == run.eval_id)).one()
            self.asks = run.data_source["type"] != "jsonl"
            self.target = resolve(session, desk.settings, run.project_id, run.model) if self.asks else None
        self.graders: list[Grader] = [parse_grader(one, desk.settings) for one in criteria]

    def blocks(self) -> Iterator[list[Row]]:
        rows = islice(self.rows(), self.done, None)
        while block := list(islice(rows, BLOCK_ROWS)):
            yield block

    def rows(self) -> Iterator[Row]:
        source = self.run.data_source["source"]
        if source["type"] == "file_content":
            values = iter(source["content"])
        else:
            with self.desk.database.read() as session:
                own = (File.id == source["id"], File.project_id == self.run.project_id)
                if session.scalar(select(File.seq).where(*own)) is None:
                    raise RequestError(f"No such File object: {source['id']}", status=404, param="data_source")
            values = self.lines(source["id"])
        for position, value in enumerate(values):
            if not isinstance(value, dict) or not isinstance(value.get("item"), dict):
                raise RequestError(f'row {position + 1} of the data has no "item"', param="data_source",
                                   hint='each row is {"item": {...}}')  # fmt: skip
            sample = value.get("sample") or {}
            if not isinstance(sample, dict) or not isinstance(sample.get("usage") or {}, dict):
                raise RequestError(f'"sample" of row {position + 1} is no answer', param="data_source",
                                   hint='it is {"output_text": "..."}')  # fmt: skip
            yield Row(position, value["item"], sample)

    def lines(self, id: str) -> Iterator[Any]:
        with self.desk.storage.open(id) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    value, problem = parse_json(line.decode(errors="replace"))
                    if problem:
                        raise RequestError(f"line {number} of the data {problem}", param="data_source")
                    yield value

    def do(self, block: list[Row]) -> None:
        with ThreadPoolExecutor(len(block)) as pool:
            answers = list(pool.map(self.answered, block))
        texts = [answer.sample.get("output_text") or "" for answer in answers]
        grades = grade_all(self.graders, [row.item for row in block], texts)
        items = [self.judged(answer, graded) for answer, graded in zip(answers, grades, strict=True)]
        self.done += len(block)
        with self.desk.database.write() as session:
            session.add_all(items)
            keep(session, self.run, progress=self.progress(), results=self.results())

    def answered(self, row: Row) -> Answered:
        if self.target is None:
            sample = row.sample | {"output_text": str(row.sample.get("output_text", ""))}
            return Answered(row, sample, None if row.sample else "the row has no sample, and the run names no model")
        messages = input_messages(self.run.data_source, row.item)
        return ask(self.inference, self.target, row, messages, self.run.data_source.get("sampling_params") or {})

    def judged(self, answer: Answered, grades: dict[str, Grade]) -> OutputItem:
        results, passed = [], answer.error is None
        for grader in self.graders:
            grade = grades[grader.name]
            good = answer.error is None and grade.error is None and grade.passed is not False
            passed = passed and good
            results.append({"name": grader.name, "type": grader.type, "score": grade.score, "passed": good,
                            "error": grade.error})  # fmt: skip
            tally = self.criteria.setdefault(grader.name, {"passed": 0, "failed": 0})
            tally["passed" if good else "failed"] += 1
        outcome = "error" if answer.error else "pass" if passed else "fail"
        self.counts.update(["total", {"error": "errored", "pass": "passed", "fail": "failed"}[outcome]])
        if self.asks:
            self.usage.update(answer.sample.get("usage") or {})
        return OutputItem(run_id=self.run.id, position=answer.row.position, status=outcome, item=answer.row.item,
                          sample=answer.sample | {"error": answer.error}, results=results)  # fmt: skip

    def progress(self) -> dict[str, Any]:
        return {"rows": self.done, "counts": dict(self.counts), "criteria": self.criteria, "usage": dict(self.usage)}

    def results(self) -> dict[str, Any]:
        used = {"model_name": self.run.model, "invocation_count": self.counts["total"], "cached_tokens": 0}
        tokens = {key: self.usage[key] for key in ("prompt_tokens", "completion_tokens", "total_tokens")}
        return {
            "result_counts": NO_COUNTS | self.counts,
            "per_testing_criteria_results": [{"testing_criteria": n, **t} for n, t in self.criteria.items()],
            "per_model_usage": [used | tokens] if self.asks else [],
        }


def input_messages(source: dict[str, Any], item: dict[str, Any]) -> list[dict[str, Any]]:
    """The conversation the model is asked with. Raises GraderError where the row lacks what the template names."""
    wanted = source["input_messages"]
    try:
        if wanted["type"] == "item_reference":
            return messages_at(wanted["item_reference"], item)
        messages = [with_text(message) for message in wanted["template"]]
        return [{"role": one["role"], "content": render(one["content"], item, {})} for one in messages]
    except AnswerLacks:
        raise GraderError("the input's template names `sample`, but nothing was answered yet",
                          param="input_messages", hint="use `item`") from None  # fmt: skip


def messages_at(path: str, item: dict[str, Any]) -> list[dict[str, Any]]:
    text = render(f"{{{{ {path} }}}}", item, {})
    found, problem = parse_json(text)
    if problem or not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise GraderError(f"{path} is no list of messages", param="input_messages")
    return found


def ask(inference: Inference, target: Target, row: Row, messages: list[dict[str, Any]],
        sampling: dict[str, Any]) -> Answered:  # fmt: skip
    """The model's answer as a sample; what the inference process refuses is this row's error alone."""
    body = {"messages": messages} | {key: sampling[key] for key in SAMPLING if sampling.get(key) is not None}
    response = inference.answer("/chat/completions", target, body)
    sample: dict[str, Any] = {"input": messages, "model": target.name, "output_text": "", "output": []} | {
        key: sampling.get(key) for key in ("temperature", "top_p", "seed", "max_completion_tokens")
    }
    if response.status_code != 200:
        return Answered(row, sample, refusal(response).message)
    completion = response.json()
    choice = completion["choices"][0]
    text = choice["message"].get("content") or ""
    sample |= {"output_text": text, "output": [{"role": "assistant", "content": text}],
               "finish_reason": choice["finish_reason"], "usage": completion.get("usage") or {}}  # fmt: skip
    return Answered(row, sample, None)


def end(desk: Desk, run: EvalRun, status: str, evaluation: Evaluation) -> None:
    with desk.database.write() as session:
        release(session, run, status, finished_at=time.time(), results=evaluation.results())


def give_back(desk: Desk, run: EvalRun) -> None:
    with desk.database.write() as session:
        put_back(session, run, "queued")
