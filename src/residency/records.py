"""A run is a folder: its files, and the records in them. A reader refuses a record of a newer version than its own.

runs/<name>/
  config.yaml      what the user wrote, with overrides applied
  resolved.json    what ran: every value, and the reason of each that was `auto`
  audit.json       what was found in the data
  metrics.jsonl    one Metric a line: training steps and held-out measurements
  events.jsonl     one Event a line: everything that was decided, dropped, warned of or recovered from
  search/          the candidates of a learning-rate search; search.json, one SearchResult: what it came to
  checkpoints/     step-000050/ …, each complete and checksummed
  adapter/         the result in PEFT's format (full fine-tuning: model/)
  eval/            <test>.<model>.json, one EvalResult each; probes.json and card.json: where the behaviour holds
  retention.json   one RetentionResult: how far the tuned model is from the base on prompts that are not the task's
  scale.json       one ScaleResult: task loss and forgetting between the base and the tuned model
  comparisons.json one Comparisons: the tuned model beside every measurement of the untuned one
  verdict.json     one Verdict: ship or not, and why
  row_losses.f32   each row's mean loss in the order of training, as raw float32 (see methods/row_losses.py)
  hard_rows.json   one HardRows: the rows the run could not learn
  summary.json     one Summary: what the run came to
  report.html, report.md
  error.json       only after a failure
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from residency import durable
from residency.errors import ResidencyError, RunError

Badge = Literal["OK", "WATCH", "OVERFIT"]


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    version: Literal[1] = 1


class Metric(Record):
    step: int
    """Optimizer steps done."""
    epoch: float
    """Passes over the training rows done."""
    split: Literal["train", "eval", "anchors", "replay"]
    """`anchors` and `replay` lines hold divergences from the base: of the model after the step, and within the step."""
    loss: float
    """Mean negative log-likelihood, or KL(base || model), in nats per token."""
    tokens: int
    """Tokens this is the mean of."""
    low: float | None = None
    high: float | None = None
    """95 % confidence limits of `loss`, where it stands for more than the rows it was measured on."""
    token_accuracy: float | None = None
    """Share of trained tokens that were the model's first choice."""
    learning_rate: float | None = None
    grad_norm: float | None = None
    """Norm of the whole gradient before clipping."""
    tokens_per_second: float | None = None
    """Real tokens, prompts included and padding excluded."""
    train_loss: float | None = None
    """Of an `eval` line: the mean training loss since the measurement before."""
    badge: Badge | None = None
    """Of an `eval` line: what the two losses say of each other (`evals/fit.py`)."""
    seconds: float
    """Training time since the start, over all attempts."""


class Event(Record):
    time: float = Field(default_factory=time.time)
    """Unix seconds."""
    level: Literal["info", "warning", "error"] = "info"
    kind: str
    """A stable name for programs, for example `rows_dropped`."""
    message: str
    """A sentence for people."""
    data: dict[str, Any] = Field(default_factory=dict)


class Grade(Record):
    score: float
    """The grader's score."""
    passed: bool | None
    """Whether it counts as right; null where the grader gives only a score."""
    error: str | None = None
    """Why no score could be given (the score is then 0)."""


class Answer(Record):
    row: int
    """Position in the test file, from 0."""
    prompt: str
    """What the model was asked, as readable text."""
    reference: str
    output: str
    finished: bool
    """Whether the model ended its turn itself, rather than at the token limit."""
    tokens: int
    grades: dict[str, Grade]
    """By the grader's name."""


class Interval(Record):
    value: float
    low: float
    high: float
    """95 % confidence limits."""
    n: int


class EvalResult(Record):
    test: str
    """The test's name: `test`, or a key of `eval.more_tests`."""
    model: str
    """`base`, `base-6-shot`, `tuned` …"""
    summaries: dict[str, Interval]
    """By grader: the share that passed (Wilson), or the mean score (bootstrap)."""
    answers: list[Answer]
    seconds: float


class Comparison(Record):
    test: str
    grader: str
    before: Interval
    after: Interval
    gain: Interval
    """The paired difference (bootstrap)."""
    p_value: float | None
    """Exact McNemar test; null where answers have no pass or fail."""
    wins: list[int]
    """Rows that failed before and pass now."""
    losses: list[int]
    """Rows that passed before and fail now."""
    baseline: str
    """The model that is compared with, as named in its EvalResult."""


class Comparisons(Record):
    comparisons: list[Comparison]


class PromptDivergence(Record):
    set: str
    """`anchors`, `task` or `must_keep`."""
    prompt: str
    tokens: int
    """Tokens of the base's own answer that were compared."""
    divergence: float
    """KL(base || tuned) in nats per token."""


class Memorised(Record):
    """Training rows whose first 50 tokens make the model go on with the next 30 word for word, greedily."""

    drawn_out: Interval
    """The share of rows, of those asked (Wilson)."""
    before: Interval
    """The same of the base, which may know them from elsewhere."""
    new: int
    """Rows that the base does not give away and the tuned model does."""


class Exposure(Record):
    """How well the canaries were learned by heart, in bits: 0 to 19.9."""

    after: Interval
    before: Interval
    alarms: int
    """Canaries of 10 bits or more after training."""


class RetentionResult(Record):
    """How far the tuned model is from the base."""

    divergences: dict[str, Interval]
    """By set of prompts: KL(base || tuned) in nats per token, over the base's own answers (bootstrap over prompts)."""
    prompts: list[PromptDivergence]
    perplexity_ratio: Interval | None = None
    """Tuned / base on `retention.general_text` (bootstrap over its windows)."""
    memorised: Memorised | None = None
    """Null where no training row has 80 tokens."""
    exposure: Exposure | None = None
    """Null without `retention.canaries`."""
    left_out: list[str] = []
    """Anchor prompts that share eight words in a row with the task's rows, and were not used."""
    budget: float
    seconds: dict[str, float]
    """By what it was spent on: `base` and `replay_answers` (once for a base model, then kept), `training`, `after`."""


class ScalePoint(Record):
    scale: float
    """The share a of the way from the base (0) to the tuned model (1)."""
    task_loss: Interval
    """On the held-out rows, in nats per trained token (bootstrap over rows)."""
    loss_against_full: Interval
    """The paired difference to the task loss at scale 1."""
    divergence: Interval
    """KL(base || model) on anchors, in nats per token."""


class ScaleResult(Record):
    points: list[ScalePoint]
    """From the smallest scale to 1."""
    proposed: float | None
    """The largest scale inside the budget; null where there is none."""
    taken: bool
    """Whether the result's weights are at the proposed scale."""
    reason: str
    seconds: float


class PairedComparison(Record):
    comparison: Comparison
    """`before` is A, `after` is B; its gain is drawn by clusters of rows that ask the same."""
    p_holm: float | None
    """The p-value adjusted for all comparisons of the result (Holm)."""
    not_worse: bool
    """Whether B is not worse than A by more than `margin`, with one-sided 95 % confidence."""
    margin: float


class PairedResult(Record):
    a: str
    b: str
    comparisons: list[PairedComparison]
    forgetting: Interval | None
    """How much further B is from its base than A, in nats per token on the same anchors; null where not measured."""


class Verdict(Record):
    decision: Literal["ship", "ship_scaled", "do_not_ship", "undecided"]
    passed: bool
    """Whether the result, as it stands, may be shipped: what `residency train --gate` answers."""
    scale: float | None = None
    """The adapter scale to ship with, for `ship_scaled`."""
    sentence: str
    """The verdict and its reasons in one line."""
    reasons: list[str]


class HardRow(Record):
    row: str
    """File and line."""
    text: str
    """How its prompt and its answer begin."""
    excess: float
    """By how much its loss lay above the usual one at that time, in nats per token, mean over the epochs."""
    losses: list[float | None]
    """By epoch, in nats per token; null where training did not meet it."""


class HardRows(Record):
    rows_met: int
    epochs: int
    """Begun epochs."""
    rows: list[HardRow]
    """The hardest first; none where no row stands out."""


class Candidate(Record):
    """One learning rate of a search, and how far it came."""

    name: str
    """Its folder below `search/`."""
    learning_rate: float
    steps: int = 0
    tokens: int = 0
    """That it was trained on, cool-downs excluded."""
    scores: dict[int, float | None] = Field(default_factory=dict)
    """By step: the held-out loss that it was compared by (`search/arms.py`); null where it was lost."""
    fate: str = "in training"
    """`chosen`, or why it was given up, as a sentence."""


class SearchResult(Record):
    chosen: float
    """The learning rate."""
    reason: str
    candidates: list[Candidate]
    """By rising rate."""
    other_tokens: int
    """Tokens spent on anything but the chosen candidate: the others, the probe, the cool-downs."""
    price: float
    """Tokens of the run with its search, as a multiple of the run's alone; measuring not counted."""
    seconds: float


class TrialRecord(Record):
    number: int
    values: dict[str, Any]
    state: Literal["finished", "pruned", "failed"]
    loss: float | None
    """The lowest held-out loss that was measured, in nats per trained token."""
    steps: int
    total_steps: int
    tokens: int
    seconds: float
    why: str | None = None
    """Of a trial that did not come to its end."""


class SweepRecord(Record):
    fields: list[str]
    best: int | None
    trials: list[TrialRecord]
    """By rising number."""


class Summary(Record):
    status: Literal["finished", "stopped_early"]
    steps: int
    epochs: float
    best_step: int | None
    """The checkpoint whose weights are the result; null without held-out rows."""
    train_loss: float
    eval_loss: float | None
    rows: dict[str, int]
    """Counts: read, trained on, held out, dropped, by name."""
    tokens: int
    """Real tokens that passed through training."""
    trained_tokens: int
    tokens_per_second: float
    """Compiling not counted."""
    peak_memory_bytes: int
    seconds: dict[str, float]
    """Wall time by stage; `compile` is that of compiling layers, beside `train`."""
    environment: dict[str, str]
    """Versions and device."""


R = TypeVar("R", bound=Record)


class RunFolder:
    """Reads and writes one run's files; owns no other state."""

    def __init__(self, path: Path, listener: Callable[[Event], None] | None = None) -> None:
        self.path = path
        self.listener = listener

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def say(self, kind: str, message: str, *, level: Literal["info", "warning", "error"] = "info", **data: Any) -> None:
        """Writes an event and shows it to whoever listens."""
        event = Event(level=level, kind=kind, message=message, data=data)
        self.append("events.jsonl", event)
        if self.listener:
            self.listener(event)

    def append(self, name: str, record: Record) -> None:
        durable.append_line(self / name, record.model_dump_json(exclude_none=True))

    def write(self, name: str, record: Record) -> None:
        with durable.disk_errors(self / name):
            (self / name).parent.mkdir(parents=True, exist_ok=True)
        durable.write_json(self / name, record.model_dump(mode="json"))

    def read(self, name: str, kind: type[R]) -> R:
        """Raises RunError where the file is missing, damaged or of a newer version."""
        try:
            return kind.model_validate_json((self / name).read_bytes())
        except FileNotFoundError:
            raise RunError(f"{self.path} has no {name}", hint="the run has not come that far", param=name) from None
        except ValidationError as error:
            raise RunError(f"{self / name} cannot be read: {error.errors()[0]['msg']}", param=name) from error

    def metrics(self) -> list[Metric]:
        return self._lines("metrics.jsonl", Metric)

    def _lines(self, name: str, kind: type[R]) -> list[R]:
        records = []
        for number, row in enumerate(durable.read_jsonl(self / name), 1):
            try:
                records.append(kind.model_validate(row))
            except ValidationError as error:
                raise RunError(f"{self / name}:{number} is damaged: {error.errors()[0]['msg']}", param=name) from error
        return records

    def keep_metrics(self, step: int) -> None:
        """Forgets what was measured after `step`: a resumed run measures it again."""
        kept = [metric.model_dump_json(exclude_none=True) for metric in self.metrics() if metric.step <= step]
        durable.write_text(self / "metrics.jsonl", "".join(line + "\n" for line in kept))

    def events(self) -> list[Event]:
        return self._lines("events.jsonl", Event)

    def eval_results(self) -> list[EvalResult]:
        return [self.read(f"eval/{path.name}", EvalResult) for path in sorted((self / "eval").glob("*.*.json"))]

    def fail(self, error: ResidencyError) -> None:
        """Leaves the reason in `error.json` for whoever looks at the folder later."""
        durable.write_json(self / "error.json", error.as_record())
