"""One line: ship, ship with a scale, or not, and why."""

from __future__ import annotations

import pytest

from residency.evals.verdict import decide
from residency.records import Comparison, Interval, RetentionResult, ScalePoint, ScaleResult, Verdict


def interval(value: float, low: float, high: float) -> Interval:
    return Interval(value=value, low=low, high=high, n=100)


def gain(low: float, high: float) -> Comparison:
    middle = interval((low + high) / 2, low, high)
    return Comparison(test="test", grader="exact", before=interval(0.4, 0.3, 0.5), after=interval(0.8, 0.7, 0.9),
                      gain=middle, p_value=0.01, wins=[], losses=[], baseline="base")  # fmt: skip


def forgot(value: float, **more: float) -> RetentionResult:
    sets = {"anchors": value, **more}
    return RetentionResult(divergences={name: interval(v, v * 0.9, v * 1.1) for name, v in sets.items()}, prompts=[],
                           budget=0.15, seconds={})  # fmt: skip


def scaled(proposed: float | None, *, taken: bool = False) -> ScaleResult:
    one = interval(0.1, 0.1, 0.1)
    points = [ScalePoint(scale=1.0, task_loss=one, loss_against_full=one, divergence=one)]
    return ScaleResult(points=points, proposed=proposed, taken=taken, reason="a reason", seconds=1.0)


GAINED, NOT_GAINED, WORSE = gain(0.2, 0.5), gain(-0.1, 0.2), gain(-0.5, -0.2)


@pytest.mark.parametrize(
    ("found", "decision", "passed", "says"),
    [
        (decide(GAINED, forgot(0.02), None), "ship", True, "hardly anything was forgotten on general prompts"),
        (decide(GAINED, forgot(0.10), None), "ship", True, "little was forgotten"),
        (decide(GAINED, forgot(0.40), None), "do_not_ship", False, "more than the budget of 0.15 on general prompts"),
        (decide(GAINED, forgot(0.40), scaled(0.5)), "ship_scaled", False, "Ship with adapter scale 0.5, not as it is"),
        (decide(GAINED, forgot(0.40), scaled(0.5)), "ship_scaled", False, "the tests saw the whole change"),
        (decide(GAINED, forgot(0.40), scaled(None)), "do_not_ship", False, "a reason"),
        (decide(GAINED, forgot(0.10), scaled(0.5, taken=True)), "ship_scaled", True, "Ship, at adapter scale 0.5"),
        (decide(GAINED, forgot(0.02, must_keep=0.3), None), "do_not_ship", False, "prompts that must be kept"),
        (decide(GAINED, forgot(0.02, task=3.0), None), "ship", True, "+35.0 points [+20.0, +50.0]"),
        (decide(NOT_GAINED, forgot(0.02), None), "do_not_ship", False, "no gain could be shown"),
        (decide(WORSE, forgot(0.02), scaled(0.5)), "do_not_ship", False, "it got worse"),
        (decide(None, forgot(0.02), None), "undecided", False, "was not measured (data.test"),
        (decide(GAINED, None, None), "undecided", False, "what was forgotten was not measured"),
    ],
)  # fmt: skip
def test_the_verdict_follows_from_gain_and_forgetting(found: Verdict, decision: str, passed: bool, says: str) -> None:
    assert (found.decision, found.passed) == (decision, passed)
    assert says in found.sentence
    assert "\n" not in found.sentence


def test_overfitting_is_among_the_reasons() -> None:
    assert (
        decide(GAINED, forgot(0.02), None, notes=["it was trained too long"]).reasons[-1] == "it was trained too long"
    )


def test_a_run_that_was_too_short_says_so() -> None:
    assert "barely adapted" in decide(NOT_GAINED, forgot(0.02), None, barely=True).sentence
    assert "barely adapted" not in decide(GAINED, forgot(0.02), None, barely=True).sentence


def suite(low: float, high: float) -> Comparison:
    return gain(low, high).model_copy(update={"test": "suite:arc_easy"})


def test_a_suite_that_got_worse_is_not_shipped_and_each_says_what_it_shows() -> None:
    worse = decide(GAINED, forgot(0.02), None, suites=[suite(-0.05, -0.01)])
    assert not worse.passed
    assert "it got worse on arc_easy" in worse.sentence
    kept = decide(GAINED, forgot(0.02), None, suites=[suite(-0.015, 0.01)])
    assert kept.passed
    assert "not worse by more than 2.0 %" in kept.sentence.replace("\N{NO-BREAK SPACE}", " ")
    assert "too few rows to tell" in decide(GAINED, forgot(0.02), None, suites=[suite(-0.1, 0.1)]).sentence
