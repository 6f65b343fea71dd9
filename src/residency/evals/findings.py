"""What a report says, read from the run folder and nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from residency.errors import RunError
from residency.evals.card_records import Card
from residency.evals.compare import SUITE, compare
from residency.evals.fit import Fit, judge_fit
from residency.evals.verdict import decide
from residency.records import (
    Answer,
    Comparison,
    EvalResult,
    Event,
    HardRows,
    Metric,
    RetentionResult,
    RunFolder,
    ScaleResult,
    Summary,
    Verdict,
)
from residency.wording import counted, percent, points, probability, score, signed

TUNED = "tuned"
BASE = "base"
FIRST_TEST = "test"
EXAMPLES_SHOWN = 10
FEW_OF_EACH = {"won": 4, "lost": 3, "still wrong": 2, "still right": 1, "": EXAMPLES_SHOWN}


@dataclass(frozen=True)
class Setting:
    path: str
    value: str
    reason: str | None
    """Why, where the user left it to `auto`."""


@dataclass(frozen=True)
class SideBySide:
    outcome: str
    before: Answer
    after: Answer


@dataclass(frozen=True)
class Findings:
    name: str
    status: str
    """`finished`, `stopped early`, `failed` or `unfinished`."""
    error: dict[str, Any] | None
    headline: str
    support: str
    summary: Summary | None
    comparisons: list[Comparison]
    results: list[EvalResult]
    metrics: list[Metric]
    settings: list[Setting]
    examples: list[SideBySide]
    warnings: list[str]
    events: list[Event]
    audit: str | None
    data: dict[str, Any] | None
    """The data's `score`, `findings`, `said` (what some rows say) and `plots`, as `audit.json` has them; runs of older
    versions have none."""
    retention: RetentionResult | None
    scaled: ScaleResult | None
    fit: Fit
    card: Card | None
    verdict: Verdict | None
    """None before there is a result."""
    hard_rows: HardRows | None


def read_findings(run: RunFolder) -> Findings:
    """Raises RunError where the folder is missing or a file in it is damaged; what is not there yet is left out."""
    if not run.path.is_dir():
        raise RunError(f"there is no run folder {run.path}", hint="`residency runs` lists them", param=str(run.path))
    results, events = sorted(run.eval_results(), key=_order), run.events()
    summary = run.read("summary.json", Summary) if (run / "summary.json").exists() else None
    error = _json(run, "error.json")
    comparisons, problems = _comparisons(results)
    status = _status(summary, error)
    metrics = run.metrics()
    headline, support = _headline(comparisons) or _not_compared(status, results, metrics)
    audit = _json(run, "audit.json")
    retention = run.read("retention.json", RetentionResult) if (run / "retention.json").exists() else None
    scaled = run.read("scale.json", ScaleResult) if (run / "scale.json").exists() else None
    card = run.read("eval/card.json", Card) if (run / "eval/card.json").exists() else None
    fit = judge_fit(metrics)
    return Findings(
        name=run.path.resolve().name,
        status=status,
        error=error,
        headline=headline,
        support=support,
        summary=summary,
        comparisons=comparisons,
        results=results,
        metrics=metrics,
        settings=_settings(_json(run, "resolved.json") or {}),
        examples=_examples(comparisons, results),
        warnings=problems + _ungraded(results) + [event.message for event in events if event.level != "info"],
        events=events,
        hard_rows=run.read("hard_rows.json", HardRows) if (run / "hard_rows.json").exists() else None,
        data=audit if audit and "score" in audit else None,
        audit=json.dumps(audit, indent=2, ensure_ascii=False) if audit else None,
        retention=retention,
        scaled=scaled,
        fit=fit,
        card=card,
        verdict=decide(
            strongest(comparisons),
            retention,
            scaled,
            notes=_notes(fit, retention, card),
            barely=bool(fit.barely),
            suites=[one for one in comparisons if one.test.startswith(SUITE) and one.baseline == BASE],
        )
        if summary
        else None,
    )


def strongest(comparisons: list[Comparison]) -> Comparison | None:
    """The comparison that decides: first test, first grader, against the best of the untuned models."""
    tests = [each for each in comparisons if not each.test.startswith(SUITE)]
    if not tests:
        return None
    rivals = [each for each in tests if (each.test, each.grader) == (tests[0].test, tests[0].grader)]
    return max(rivals, key=lambda each: each.before.value)


def _notes(fit: Fit, retention: RetentionResult | None, card: Card | None) -> list[str]:
    """What the verdict says besides."""
    notes = [fit.warning] if fit.warning else []
    found = retention.memorised if retention else None
    if found and found.new:
        rows = f"{found.new} of {counted(found.drawn_out.n, 'training row')}"
        notes.append(f"{rows} can be drawn out of it word for word, and could not before")
    exposed = retention.exposure if retention else None
    if exposed and exposed.alarms:
        notes.append(
            f"learned by heart (10 bits or more): {exposed.alarms} of {counted(exposed.after.n, 'canary', 'canaries')}"
        )
    if card:
        # Where it must hold is for the user to say: the card informs and decides nothing.
        notes.append(card.sentence[0].lower() + card.sentence[1:].rstrip("."))
    return notes


def _json(run: RunFolder, name: str) -> Any:
    if not (run / name).exists():
        return None
    try:
        return json.loads((run / name).read_bytes())
    except ValueError as error:
        raise RunError(f"{run / name} cannot be read: {error}", param=name) from error


def _order(result: EvalResult) -> tuple[bool, str, bool, bool, str]:
    """`test` before other tests; `base`, its variants, then `tuned`."""
    return result.test != FIRST_TEST, result.test, result.model == TUNED, result.model != BASE, result.model


def _status(summary: Summary | None, error: dict[str, Any] | None) -> str:
    if error:
        return "failed"
    return summary.status.replace("_", " ") if summary else "unfinished"


def _comparisons(results: list[EvalResult]) -> tuple[list[Comparison], list[str]]:
    found, problems = [], []
    for after in (result for result in results if result.model == TUNED):
        pairs: list[list[Comparison]] = []
        for before in (result for result in results if result.test == after.test and result.model != TUNED):
            try:
                pairs.append(compare(before, after))
            except RunError as error:
                problems.append(f"No comparison: {error.message}")
        found += [each for of_one_grader in zip_longest(*pairs) for each in of_one_grader if each]
    return found, problems


def _headline(comparisons: list[Comparison]) -> tuple[str, str] | None:
    """What was gained, as a sentence, and the evidence for it."""
    found = strongest(comparisons)
    if found is None:
        return None
    return _gain_in_scores(found) if found.p_value is None else _gain_in_shares(found, found.p_value)


def _gain_in_shares(found: Comparison, p_value: float) -> tuple[str, str]:
    gain, low, high = map(points, (found.gain.value, found.gain.low, found.gain.high))
    are = "is" if found.after.n == 1 else "are"
    return (
        f"{percent(found.after.value)} of {counted(found.after.n, 'test answer')} {are} right, "
        f"{_direction(found)} {percent(found.before.value)}.",
        f"{_verdict(found)}: {gain} points (95 % interval {low} to {high}, exact McNemar {probability(p_value)}) "
        f"by {found.grader} on {found.test}, against {found.baseline}; "
        f"{len(found.wins)} won, {len(found.losses)} lost.",
    )


def _gain_in_scores(found: Comparison) -> tuple[str, str]:
    gain, low, high = map(signed, (found.gain.value, found.gain.low, found.gain.high))
    return (
        f"The mean {found.grader} of {counted(found.after.n, 'test answer')} is {score(found.after.value)}, "
        f"{_direction(found)} {score(found.before.value)}.",
        f"{_verdict(found)}: {gain} (95 % interval {low} to {high}) on {found.test}, against {found.baseline}.",
    )


def _direction(found: Comparison) -> str:
    if found.gain.value == 0:
        return "as before:"
    return "up from" if found.gain.value > 0 else "down from"


def _verdict(found: Comparison) -> str:
    if found.gain.low <= 0 <= found.gain.high:
        return "No difference could be shown"
    return "Tuning helped" if found.gain.low > 0 else "Tuning made it worse"


def _not_compared(status: str, results: list[EvalResult], metrics: list[Metric]) -> tuple[str, str]:
    """What can be said of a run without a before and after."""
    step = max((metric.step for metric in metrics), default=0)
    steps = counted(step, "training step")
    headlines = {
        "failed": f"This run failed after {steps}." if step else "This run failed.",
        "unfinished": f"{steps} so far." if step else "Nothing has been trained yet.",
    }
    headline = headlines.get(status, f"{steps}, without a before and after.")
    held_out = [metric.loss for metric in metrics if metric.split == "eval"]
    said = [f"The held-out loss went from {held_out[0]:.3f} to {min(held_out):.3f} nats per token."] if held_out else []
    if results:
        said.append(_one_result(results[0]))
    else:
        said.append("No test was measured: data.test names the rows that show what was gained.")
    return headline, " ".join(said)


def _one_result(result: EvalResult) -> str:
    grader, interval = next(iter(result.summaries.items()))
    decided = all(answer.grades[grader].passed is not None for answer in result.answers)
    value, low, high = map(percent if decided else score, (interval.value, interval.low, interval.high))
    rows = counted(interval.n, "row")
    return f"{result.model} on {result.test}: {value} by {grader} (95 % interval {low} to {high}, {rows})."


def _settings(resolved: dict[str, Any]) -> list[Setting]:
    reasons = resolved.get("reasons", {})
    return [Setting(path, value, reasons.get(path)) for path, value in _leaves("", resolved.get("config", {}))]


def _leaves(path: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [leaf for key, part in value.items() for leaf in _leaves(f"{path}.{key}" if path else key, part)]
    return [(path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]


def _ungraded(results: list[EvalResult]) -> list[str]:
    """A score of 0 that stands for "could not be graded" must not pass for a wrong answer."""
    said = []
    for result in results:
        answers = f"{counted(len(result.answers), 'answer')} of {result.model} on {result.test}"
        for grader in result.summaries:
            errors = [error for answer in result.answers if (error := answer.grades[grader].error)]
            if errors:
                said.append(
                    f"{grader} could not grade {len(errors)} of {answers}, which counts as 0. "
                    f"The first reason: {errors[0]}"
                )
        cut = sum(not answer.finished for answer in result.answers)
        if cut:
            said.append(f"{cut} of {answers} stopped at the token limit.")
    return said


def _examples(comparisons: list[Comparison], results: list[EvalResult]) -> list[SideBySide]:
    """Rows won and rows lost first, then rows that stayed wrong and right; a few of each, as far as there are."""
    found = next((each for each in comparisons if each.baseline == BASE), strongest(comparisons))
    if found is None:
        return []
    of = {result.model: result.answers for result in results if result.test == found.test}
    before, after = of[found.baseline], of[TUNED]
    won, lost = set(found.wins), set(found.losses)
    groups: dict[str, list[SideBySide]] = {outcome: [] for outcome in FEW_OF_EACH}
    for old, new in zip(before, after, strict=True):
        passed = new.grades[found.grader].passed
        same = "" if passed is None else "still right" if passed else "still wrong"
        outcome = "won" if new.row in won else "lost" if new.row in lost else same
        groups[outcome].append(SideBySide(outcome, old, new))
    few = [each for outcome, most in FEW_OF_EACH.items() for each in groups[outcome][:most]]
    more = [each for outcome, most in FEW_OF_EACH.items() for each in groups[outcome][most:]]
    chosen = (few + more)[:EXAMPLES_SHOWN]
    return sorted(chosen, key=lambda each: list(FEW_OF_EACH).index(each.outcome))
