from collections.abc import Callable
from typing import Any

import pytest

from residency.config.graders import Grader, JsonMatch, TextSimilarity
from residency.errors import RunError
from residency.evals.compare import compare
from residency.evals.run import Completion, evaluate
from residency.records import EvalResult

GRADERS: list[Grader] = [JsonMatch(), TextSimilarity(name="alike")]
Measure = Callable[..., EvalResult]


@pytest.fixture
def measure(make_example: Callable[..., Any]) -> Measure:
    def measured(model: str, right: set[int], rows: int = 10, graders: list[Grader] = GRADERS) -> EvalResult:
        examples = [make_example(row) for row in range(rows)]
        answers = [Completion(each.reference if row in right else "?", True, 1) for row, each in enumerate(examples)]
        return evaluate("test", model, examples, lambda _: answers, graders)

    return measured


def test_wins_and_losses_are_the_rows_whose_verdict_changed(measure: Measure) -> None:
    whole, _ = compare(measure("base", {0, 1}), measure("tuned", {1, 2, 3, 4, 5, 6, 7}))
    assert (whole.test, whole.grader, whole.baseline) == ("test", "json_match", "base")
    assert (whole.wins, whole.losses) == ([2, 3, 4, 5, 6, 7], [0])
    assert (whole.before.value, whole.after.value) == (0.2, 0.7)
    assert whole.gain.value == pytest.approx(0.5)
    assert whole.gain.low < 0 < 0.5 < whole.gain.high, "6 against 1 of 10 rows is no proof"
    assert whole.p_value == pytest.approx(0.125)


def test_scores_without_pass_or_fail_have_a_gain_but_no_p_value(measure: Measure) -> None:
    _, alike = compare(measure("base", set()), measure("tuned", {1, 2, 3}))
    assert alike.p_value is None
    assert (alike.wins, alike.losses) == ([], [])
    assert alike.gain.value == pytest.approx(alike.after.value - alike.before.value)


def test_only_graders_that_both_have_are_compared(measure: Measure) -> None:
    compared = compare(measure("base", set(), graders=[JsonMatch()]), measure("tuned", {1}))
    assert [each.grader for each in compared] == ["json_match"]


def test_different_rows_are_not_compared(measure: Measure) -> None:
    with pytest.raises(RunError, match="different rows"):
        compare(measure("base", set(), rows=9), measure("tuned", set()))
