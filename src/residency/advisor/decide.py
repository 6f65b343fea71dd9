"""From what was measured to one of six choices, by a rule that a person can follow.

    prompt         the best prompt is good enough: its lower limit reaches the target
    retrieval      with the gold context 10 points more are right, and chance does not explain it
    fine-tune      most mistakes are of form, or the prompt works already and only has to work more often
    rethink        hardly ever right, not even in 8 tries or with the context
    reinforcement  8 tries find 20 points more right answers than one
    pilot          none of these is clear, or there are too few rows to tell

A prompt that works 90 % of the time can be tuned to 99 %; one that works 20 % of the time needs another approach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from residency.advisor.mistakes import FORM, Mistake
from residency.evals.stats import mcnemar_exact, wilson
from residency.records import Interval, Record

Choice: TypeAlias = Literal["prompt", "retrieval", "fine-tune", "reinforcement", "rethink", "pilot"]

RETRIEVAL_GAIN = 0.10
REINFORCEMENT_GAIN = 0.20
SIGNIFICANT = 0.05
HARDLY_EVER = 0.20
"""A prompt that works no more often than this needs another approach."""
SOMETIMES = 0.40
WORKS = 0.75
MOST = 0.5
FEWEST_TEST_ROWS = 40
FEWEST_TRAINING_ROWS = 50
RESAMPLES = 200


class PromptScore(Record):
    name: str
    right: Interval
    """On the development rows it was tried on."""
    score: float
    """Breaks ties: the mean of all graders' scores, and how alike answers and references are."""
    few_shot: bool


class Evidence(Record):
    """What was measured, row by row of the test where it counts."""

    rows: dict[str, int]
    """train, dev, test."""
    target: float
    grader: str
    """The one that decides."""
    prompts: list[PromptScore]
    """In the order of their rank on the development rows."""
    passed: list[bool]
    """With the best prompt."""
    mistakes: list[Mistake | None]
    """Of the same answers; null where right."""
    with_context: list[bool | None]
    """With the gold context; null where a row has none."""
    sampled: list[list[bool] | None]
    """Eight answers at temperature 0.8, or at the model's own; null where none were asked for."""
    agreement: float | None
    """Share of pairs of the eight that say the same, over all rows."""
    own_temperature: bool = False
    """Whether the model takes no temperature: it answered at its own, one try and each of the eight."""


@dataclass(frozen=True, slots=True)
class Figures:
    right: Interval
    """With the best prompt."""
    form: Interval | None
    """Mistakes of form, of all mistakes; null where there are none."""
    context: Interval | None
    context_gain: float
    context_p_value: float
    tries: Interval | None
    """Right at least once in eight."""
    tries_gain: float
    """Over one greedy answer to the same rows."""
    few_shot_gain: float
    """On the development rows: the best prompt with worked examples over the best without."""
    few_shot_room: float
    """From the best prompt without worked examples to the target."""


class Decision(Record):
    choice: Choice
    reasons: list[str]
    enough_rows: bool
    resampled: dict[str, float]
    """How often each choice comes out where the test's rows are drawn again with replacement."""


def decide(evidence: Evidence, seed: int = 0) -> Decision:
    """The choice, its reasons, and how firm it is."""
    rows = range(len(evidence.passed))
    choice, reasons = choose(figures_of(evidence, rows), evidence.target, enough(evidence))
    drawn = np.random.default_rng(seed).integers(len(rows), size=(RESAMPLES, len(rows))).tolist()
    others = [choose(figures_of(evidence, some), evidence.target, enough(evidence))[0] for some in drawn]
    return Decision(
        choice=choice,
        reasons=reasons,
        enough_rows=enough(evidence),
        resampled={
            name: others.count(name) / RESAMPLES for name in sorted(set(others), key=others.count, reverse=True)
        },
    )


def enough(evidence: Evidence) -> bool:
    return evidence.rows["test"] >= FEWEST_TEST_ROWS and evidence.rows["train"] >= FEWEST_TRAINING_ROWS


def figures_of(evidence: Evidence, rows: Sequence[int]) -> Figures:
    """The figures over these rows of the test; a row may come up several times."""
    passed = [evidence.passed[row] for row in rows]
    mistakes = [mistake for row in rows if (mistake := evidence.mistakes[row])]
    gold = [(evidence.passed[row], right) for row in rows if (right := evidence.with_context[row]) is not None]
    tries = [(evidence.passed[row], any(eight)) for row in rows if (eight := evidence.sampled[row]) is not None]
    gold_gains, tries_gains = _gains(gold), _gains(tries)
    shots = [score.right.value for score in evidence.prompts if score.few_shot]
    plain = max(score.right.value for score in evidence.prompts if not score.few_shot)
    return Figures(
        right=wilson(sum(passed), len(passed)),
        form=wilson(sum(mistake in FORM for mistake in mistakes), len(mistakes)) if mistakes else None,
        context=wilson(sum(right for _, right in gold), len(gold)) if gold else None,
        context_gain=sum(gold_gains) / max(len(gold), 1),
        context_p_value=mcnemar_exact(gold_gains.count(1), gold_gains.count(-1)),
        tries=wilson(sum(right for _, right in tries), len(tries)) if tries else None,
        tries_gain=sum(tries_gains) / max(len(tries), 1),
        few_shot_gain=max(shots, default=0.0) - plain,
        few_shot_room=evidence.target - plain,
    )


def _gains(pairs: Sequence[tuple[bool, bool]]) -> list[int]:
    return [int(after) - int(before) for before, after in pairs]


def choose(found: Figures, target: float, enough_rows: bool) -> tuple[Choice, list[str]]:
    """The rule, in order. Form comes before reinforcement: where reference answers teach it, they do so cheaper."""
    right = found.right
    if right.low >= target:
        return "prompt", [f"The best prompt is right in {_share(right)}: even the lower limit reaches {target:.0%}."]
    if found.context and found.context_gain >= RETRIEVAL_GAIN and found.context_p_value < SIGNIFICANT:
        return "retrieval", [
            f"With the gold context {_share(found.context)} are right, {100 * found.context_gain:+.0f} points "
            f"(exact McNemar p = {found.context_p_value:.2g}): what is missing is knowledge, and a prompt can carry it."
        ]
    if not enough_rows:
        return "pilot", [
            f"Too few rows to tell: at least {FEWEST_TEST_ROWS} to test on and {FEWEST_TRAINING_ROWS} to train on are "
            f"needed, {FEWEST_TEST_ROWS + FEWEST_TRAINING_ROWS + 10} in all."
        ]
    if found.form and found.form.value >= MOST:
        return "fine-tune", [
            f"{_share(found.form)} of the mistakes are of form (they do not parse, or break the task's format, style "
            "or conventions). Examples teach form; a prompt has not."
        ]
    tries, context = (found.tries.value if found.tries else 0.0), (found.context.value if found.context else 0.0)
    if right.value <= HARDLY_EVER and tries < SOMETIMES and context < SOMETIMES:
        return "rethink", [_hopeless(found)]
    if found.tries and found.tries_gain >= REINFORCEMENT_GAIN:
        return "reinforcement", [
            f"One of eight tries is right in {_share(found.tries)}, {100 * found.tries_gain:+.0f} points over one: the "
            "model can do it and has to do it reliably, which a grader can reward."
        ]
    if right.value >= WORKS:
        return "fine-tune", [
            f"The best prompt is right in {_share(right)}: the model knows the task. Tuning makes it do so more often."
        ]
    if found.few_shot_gain >= MOST * found.few_shot_room:
        return "fine-tune", [
            f"Worked examples in the prompt gain {100 * found.few_shot_gain:+.0f} points, half of the way to "
            f"{target:.0%} or more. The model learns from examples, and training shows it all of them."
        ]
    return "pilot", ["No branch of the rule is clear: tune on small subsets, and let the slope decide."]


def _hopeless(found: Figures) -> str:
    said = f"The best prompt is right in {_share(found.right)}"
    if found.tries:
        said += f", one of eight tries in {found.tries.value:.0%}"
    if found.context:
        said += f", with the context in {found.context.value:.0%}"
    return said + ", and the mistakes are of content. Examples do not teach a model what it cannot do."


def _share(interval: Interval) -> str:
    return f"{interval.value:.0%} [{interval.low:.0%}, {interval.high:.0%}]"


def what_would_change(evidence: Evidence, choice: Choice) -> list[str]:
    """For each branch that was not taken, what it would have needed."""
    found = figures_of(evidence, range(len(evidence.passed)))
    form = found.form.value if found.form else 0.0
    said: dict[Choice, str] = {
        "prompt": f"The prompt would be enough if its lower limit reached {evidence.target:.0%}; it is at "
        f"{found.right.low:.0%}.",
        "retrieval": f"Retrieval would be the choice if the gold context gained {100 * RETRIEVAL_GAIN:.0f} points "
        f"beyond chance; it gains {100 * found.context_gain:+.0f} (p = {found.context_p_value:.2g})."
        if found.context
        else "Retrieval was not measured: no row has a context. Add the text in which the answer stands to each row.",
        "fine-tune": f"Fine-tuning would be the choice if half of the mistakes were of form ({form:.0%} "
        f"are), or if the best prompt were right in {WORKS:.0%} ({found.right.value:.0%}).",
        "reinforcement": f"Reinforcement would be the choice if eight tries gained {100 * REINFORCEMENT_GAIN:.0f} "
        f"points over one; they gain {100 * found.tries_gain:+.0f}."
        if found.tries
        else "Eight tries were not measured.",
        "rethink": f"Rethinking would be the choice if the best prompt were right in {HARDLY_EVER:.0%} or less "
        f"({found.right.value:.0%}) with mistakes of content.",
    }
    if not enough(evidence):
        said["pilot"] = (
            f"More rows: {evidence.rows['test']} to test on and {evidence.rows['train']} to train on decide little."
        )
        if choice == "pilot":  # the branches below this one were not asked
            then, _ = choose(found, evidence.target, enough_rows=True)
            said["pilot"] += f" Were these shares those of enough rows, the choice would be {then}."
            said = {name: said[name] for name in ("prompt", "retrieval", "pilot")}
    return [sentence for name, sentence in said.items() if name != choice or name == "pilot"]
