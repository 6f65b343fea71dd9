"""What the generalisation card writes into the run's folder."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from residency.records import Interval, Record

ProbeKind = Literal[
    "trained", "paraphrase", "other_form", "multi_turn", "system_prompt", "other_language", "no_template", "one_hop",
    "neighbours", "challenge",
]  # fmt: skip


class Behaviour(Record):
    row: str
    """Where it stands in the training data: `train.jsonl:17`."""
    sort: Literal["short", "format", "text"]
    """A fact or a label; an answer in a form that a program reads; a longer text."""
    question: str
    answer: str
    own: str | None
    """What the untuned model answers, shown other rows as examples; null for longer texts, which are not asked."""
    empty: dict[ProbeKind, str]
    """Kinds of prompts that make no sense for this row, or could not be written, and why."""


class Probe(Record):
    behaviour: int
    """Position in the card's behaviours."""
    kind: ProbeKind
    source: Literal["row", "template", "base", "user"]
    """Who wrote the prompt: the training row itself, our templates, the untuned model, or whoever made the card."""
    messages: list[dict[str, Any]]
    """The conversation that is answered; empty where there is only `text`."""
    text: str
    """What is continued without a chat template; else empty."""
    tools: list[dict[str, Any]] = Field(default_factory=list)
    answer: str
    """What the model should prefer: the trained answer; for neighbours what the untuned model says."""
    others: list[str]
    """What it should not prefer to that."""
    before: float | None = None
    """The untuned model's margin: how much likelier `answer` is than the best of `others`, in nats."""
    margin: float | None = None
    """The tuned model's."""
    output: str | None = None
    """What the tuned model says (greedy)."""
    right: bool | None = None
    """Whether `output` is right by the run's first grader or holds the answer's words; null where nothing decides."""
    holds: bool | None = None
    """The verdict on this prompt: `right` where the answer's form is what was trained, else whether `margin` > 0."""


class ProbeSet(Record):
    """What the untuned model was asked before anything was trained."""

    behaviours: list[Behaviour]
    probes: list[Probe]
    rows: int
    """Training rows that the behaviours were chosen from."""
    seconds: float


class KindSummary(Record):
    kind: ProbeKind
    holds: Interval
    """Over prompts, with Wilson limits clustered by behaviour."""
    before: Interval
    """The share of these prompts at which the untuned model already preferred the answer."""
    preferred: Interval
    right: Interval | None
    """The share that was right as written by the tuned model."""


class Card(ProbeSet):
    """Where the trained behaviours hold."""

    near: Interval
    """Over prompts like the training data: the trained ones and other wordings."""
    elsewhere: Interval | None
    """Over all other prompts at which the behaviour should hold, but for challenges."""
    neighbours: Interval | None
    """Over prompts that must not change."""
    kinds: list[KindSummary]
    judged_by: str
    """The grader that decided `right` for answers in the trained form."""
    contradicted: int
    """Behaviours of which the untuned model is sure of another answer."""
    sentence: str
