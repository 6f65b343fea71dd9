"""Ship, ship with a smaller adapter scale, or do not ship: one line, with its reasons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from residency.evals.compare import SUITE
from residency.evals.paired import MARGIN
from residency.records import Comparison, Interval, RetentionResult, ScaleResult, Verdict
from residency.wording import percent, points, score

Decision = Literal["ship", "ship_scaled", "do_not_ship", "undecided"]
GREEN = 0.05
"""Nats per token up to which nothing is noticed; a rule of thumb, as the default budget is."""
UNTESTED = "the tests saw the whole change, so take that scale (retention.scale: take) to see its gain"
SETS = {"anchors": "on general prompts", "must_keep": "on the prompts that must be kept"}
"""Those that the budget holds for: on the task's own prompts a change is what was wanted."""


def decide(
    gain: Comparison | None,
    retention: RetentionResult | None,
    scaled: ScaleResult | None,
    *,
    suites: Sequence[Comparison] = (),
    notes: Sequence[str] = (),
    barely: bool = False,
) -> Verdict:
    """From the deciding comparison (None: nothing was tested), forgetting (None: not measured), and the scales tried.

    A model ships where its gain's interval lies above zero, forgetting is inside the budget and no suite got worse.
    `notes` are further things to know, which decide nothing; `barely` says that training ended while the loss was
    still falling.
    """
    gained, gain_reason = judge_gain(gain)
    kept, retention_reasons = judge_retention(retention)
    if any(one.gain.high < 0 for one in suites):
        kept = False
    reasons = [gain_reason, *retention_reasons, *map(judge_suite, suites), *notes]
    if barely and gain is not None and not gained:
        reasons.append("it is barely adapted: the training loss was still falling at the end, so train longer")
    if gain is None or (gained and kept is None):
        return verdict("undecided", "Undecided", reasons)
    if gained and kept:
        if scaled and scaled.taken:
            return verdict("ship_scaled", f"Ship, at adapter scale {scaled.proposed:g}", reasons, scale=scaled.proposed,
                           passed=True)  # fmt: skip
        return verdict("ship", "Ship", reasons, passed=True)
    if gained and scaled:
        reasons = [*reasons, scaled.reason]
        if scaled.proposed is not None and not scaled.taken:
            return verdict("ship_scaled", f"Ship with adapter scale {scaled.proposed:g}, not as it is",
                           [*reasons, UNTESTED], scale=scaled.proposed)  # fmt: skip
    return verdict("do_not_ship", "Do not ship", reasons)


def verdict(
    decision: Decision, head: str, reasons: list[str], *, scale: float | None = None, passed: bool = False
) -> Verdict:
    sentence = f"{head}: {'; '.join(reasons)}."
    return Verdict(decision=decision, passed=passed, scale=scale, sentence=sentence, reasons=reasons)


def judge_gain(gain: Comparison | None) -> tuple[bool, str]:
    if gain is None:
        return False, "what was gained was not measured (data.test names the rows that show it)"
    decided = gain.p_value is not None
    low, high = (points(limit) if decided else score(limit) for limit in (gain.gain.low, gain.gain.high))
    change = f"{points(gain.gain.value)} points" if decided else f"{score(gain.gain.value)}"
    interval = f"[{low}, {high}] on {gain.test}"
    if gain.gain.low > 0:
        return True, f"{change} {interval} against {gain.baseline}"
    if gain.gain.high < 0:
        return False, f"it got worse: {change} {interval} against {gain.baseline}"
    level = percent(gain.after.value) if decided else score(gain.after.value)
    return False, f"no gain could be shown: {change} {interval} against {gain.baseline}, {level} now"


def judge_retention(retention: RetentionResult | None) -> tuple[bool | None, list[str]]:
    """Whether every set is inside the budget (None: not measured), and a reason for each."""
    if retention is None:
        return None, ["what was forgotten was not measured (retention.anchors is 0)"]
    reasons, inside = [], True
    for name, where in SETS.items():
        if (found := retention.divergences.get(name)) is None:
            continue
        good = found.value <= retention.budget
        inside = inside and good
        reasons.append(f"{forgotten(found, retention.budget)} {where}: {within(found)}")
    return inside, reasons


def judge_suite(found: Comparison) -> str:
    """What a suite of general questions says: accuracy is not to fall by MARGIN."""
    name, shown = found.test.removeprefix(SUITE), f"{points(found.gain.value)} points"
    interval = f"[{points(found.gain.low)}, {points(found.gain.high)}]"
    if found.gain.high < 0:
        return f"it got worse on {name}: {shown} {interval}"
    if found.gain.low > -MARGIN:
        return f"on {name} it is not worse by more than {percent(MARGIN)}: {shown} {interval}"
    return f"on {name} {shown} {interval}: too few rows to tell"


def forgotten(found: Interval, budget: float) -> str:
    if found.value > budget:
        return f"it forgot more than the budget of {budget:g}"
    return "hardly anything was forgotten" if found.value <= min(GREEN, budget) else "little was forgotten"


def within(found: Interval) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}] nats per token"
