"""The whole of an advice, top to bottom: read, split, measure, decide, propose.

An advice is a folder:

    answers.jsonl    every answer, one a line: asking again goes on where it stopped
    events.jsonl     what was measured, in order
    advice.json      one Advice;  advice.md is the same as a page
    train.jsonl, test.jsonl, run.yaml    the proposed run, where one is proposed
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from residency import durable
from residency.advisor.decide import Choice, Decision, Evidence, decide, what_would_change
from residency.advisor.endpoint import endpoint
from residency.advisor.notebook import Notebook
from residency.advisor.probe import Fits, Parts, Probe, deciding, split
from residency.advisor.prompts import asked
from residency.config.graders import Grader, Multi
from residency.config.load import load_run
from residency.config.task import Task
from residency.data.messages import Example, Message
from residency.data.validate import load_examples
from residency.errors import DataError, ModelError, ResourceError
from residency.graders.automatic import choose_graders
from residency.graders.score import check_graders
from residency.records import Record, RunFolder

if TYPE_CHECKING:
    from residency.stages.survey import EstimateResult

TRAINS: tuple[Choice, ...] = ("fine-tune", "pilot", "reinforcement", "retrieval")
"""Choices with a run to propose; retrieval only where the context alone does not reach the target."""
FEWEST_ENDPOINT_TOKENS = 256


class Proposal(Record):
    run_file: str
    rows: int
    steps: int | None
    """Null, as the three below, where this machine cannot read the model, or no method fits it."""
    seconds: float | None
    """Training alone, as `residency estimate` says."""
    memory_bytes: int | None
    adapter: str | None
    """What `adapter.kind: auto` chooses here: full, lora or qlora."""
    adapter_reason: str
    basis: str
    """What the figures rest on, or why there are none."""


class Advice(Record):
    task: str
    model: str
    """What was measured."""
    decision: Decision
    evidence: Evidence
    would_change: list[str]
    proposal: Proposal | None
    grader_reason: str
    answers: int
    """That were asked for in this call; the others were known."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Hosted:
    """A model behind an endpoint, to be measured instead of the task's own."""

    url: str
    model: str


def advise(task: Task, record: RunFolder, hosted: Hosted | None = None) -> Advice:
    """Measures, decides and writes the advice into its folder.

    Raises ResidencyError; what was answered until then is kept, and the same call goes on from there.
    """
    from residency.engine.memory import release_memory

    began = time.monotonic()
    examples = load_task_examples(task)
    parts = split(examples, task.seed)
    graders, reason = graders_of(task, examples)
    notebook, fits = open_notebook(task, examples, hosted, record)
    record.say("split", f"{len(parts.test)} rows are kept untouched for the test, the prompt is chosen on "
               f"{len(parts.dev)}, worked examples come from {len(parts.train)}")  # fmt: skip
    evidence = Probe(task, graders, parts, notebook, record.say, fits).run()
    answers = notebook.asked
    del notebook, fits  # the model with them: its memory is free for the run that is weighed
    release_memory()
    decision = decide(evidence, task.seed)
    found = Advice(
        task=task.name,
        model=f"{hosted.model} at {hosted.url}" if hosted else task.model.id,
        decision=decision,
        evidence=evidence,
        would_change=what_would_change(evidence, decision.choice),
        proposal=propose(task, graders, parts, evidence, decision.choice, record.path),
        grader_reason=reason,
        answers=answers,
        seconds=time.monotonic() - began,
    )
    record.write("advice.json", found)
    return found


def load_task_examples(task: Task) -> list[Example]:
    examples = load_examples(task.examples, purpose="test").examples
    if any(example.text is not None for example in examples):
        raise DataError("plain text has no answers to judge", param="examples", hint="give prompts with their answers")
    return examples


def graders_of(task: Task, examples: Sequence[Example]) -> tuple[list[Grader], str]:
    """Raises GraderError before anything is asked."""
    if task.graders == "auto":
        graders, reason = choose_graders([example.reference for example in examples])
    else:
        graders, reason = list(task.graders), "set by the task"
    check_graders(graders)
    deciding(graders)
    return graders, reason


def open_notebook(
    task: Task, examples: Sequence[Example], hosted: Hosted | None, record: RunFolder
) -> tuple[Notebook, Fits]:
    path = record / "answers.jsonl"
    if hosted:
        longest = max(len(example.reference) for example in examples)
        most = _limit(task) or max(FEWEST_ENDPOINT_TOKENS, longest)  # a token has at least a character
        ask = endpoint(hosted.url, hosted.model, most, record.say)
        return Notebook(path, {"url": hosted.url, "model": hosted.model, "tokens": most}, ask), lambda question: True
    from residency.advisor.local import local_model
    from residency.data.render import renderer_for
    from residency.models.load import load_tokenizer
    from residency.stages.facts import longest_tokens

    renderer = renderer_for(load_tokenizer(task.model))
    longest = longest_tokens(renderer, [example.reference for example in examples])
    most = _limit(task) or math.ceil(longest * 1.25) + 16
    ask, fits = local_model(task.model, renderer, max_new_tokens=most, batch_size=task.batch_size, seed=task.seed)
    return Notebook(path, {"model": task.model.model_dump(), "tokens": most, "seed": task.seed}, ask), fits


def _limit(task: Task) -> int | None:
    return None if task.max_new_tokens == "auto" else task.max_new_tokens


def propose(
    task: Task, graders: list[Grader], parts: Parts, evidence: Evidence, choice: Choice, folder: Path
) -> Proposal | None:
    """Writes the run that follows from the choice, and says what it will take; null where none should be run."""
    gold = [right for right in evidence.with_context if right is not None]
    if choice not in TRAINS or (choice == "retrieval" and sum(gold) / len(gold) >= evidence.target):
        return None
    field = task.context if choice == "retrieval" else None
    train = [*parts.train, *parts.dev]
    random.Random(task.seed).shuffle(train)  # so that the first rows are a fair subset
    write_rows(folder / "train.jsonl", train, field)
    write_rows(folder / "test.jsonl", parts.test, field)
    best = evidence.prompts[0].name
    run = {
        "name": task.name,
        "model": task.model.model_dump(exclude_defaults=True),
        "data": {"train": "train.jsonl", "test": "test.jsonl"},
        "adapter": {"kind": "auto"},
        "eval": {"graders": [grader_values(grader) for grader in graders]}
        | ({"few_shot": int(best.split("-")[0])} if evidence.prompts[0].few_shot else {}),
    }
    durable.write_text(folder / "run.yaml", yaml.safe_dump(run, sort_keys=False, allow_unicode=True))
    need, basis = needs(folder / "run.yaml")
    return Proposal(
        run_file=str(folder / "run.yaml"),
        rows=len(train),
        steps=need.steps if need else None,
        seconds=need.need.seconds if need else None,
        memory_bytes=need.need.total_bytes if need else None,
        adapter=need.resolved.adapter.kind if need else None,
        adapter_reason=need.reasons["adapter.kind"] if need else "",
        basis=basis,
    )


def needs(run_file: Path) -> tuple[EstimateResult | None, str]:
    """What `residency estimate` says of the run; nothing where the model cannot be read here."""
    from residency.stages.survey import estimate

    try:
        found = estimate(load_run(run_file))
    except (ModelError, ResourceError) as error:
        return None, f"no estimate: {error.message}"
    return found, found.need.basis


def write_rows(path: Path, examples: Sequence[Example], context_field: str | None) -> None:
    """Rows in the chat format with all their fields; with `context_field`, as the model sees them with the context."""
    lines = []
    for example in examples:
        messages: list[Message] = [*asked(example, context_field), example.messages[-1]]
        row = {**example.fields, "messages": messages}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    durable.write_text(path, "".join(lines))


def grader_values(grader: Grader) -> dict[str, Any]:
    if isinstance(grader, Multi):
        return grader.model_dump(mode="json")
    return {"type": grader.type, **grader.model_dump(mode="json", exclude_defaults=True)}
