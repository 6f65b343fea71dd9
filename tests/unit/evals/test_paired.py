"""Two models over several tests: better, worse, not worse, or not to be told apart."""

from __future__ import annotations

import pytest

from residency.errors import RunError
from residency.evals.paired import compare_all, forgetting_between, holm, sentence
from residency.evals.stats import wilson
from residency.records import Answer, EvalResult, Grade, PromptDivergence


def result(passes: list[bool], test: str = "test", prompts: list[str] | None = None) -> EvalResult:
    answers = [
        Answer(row=row, prompt=prompts[row] if prompts else f"question {row}", reference="x", output="y", finished=True,
               tokens=1, grades={"exact": Grade(score=float(passed), passed=passed)})
        for row, passed in enumerate(passes)
    ]  # fmt: skip
    return EvalResult(test=test, model="tuned", summaries={"exact": wilson(sum(passes), len(passes))}, answers=answers,
                      seconds=0)  # fmt: skip


def test_holm_is_the_textbook_one() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_better_worse_and_no_difference() -> None:
    weak, strong = [row < 40 for row in range(100)], [row < 80 for row in range(100)]
    [better] = compare_all("a", "b", [result(weak)], [result(strong)], None).comparisons
    [worse] = compare_all("a", "b", [result(strong)], [result(weak)], None).comparisons
    [same] = compare_all("a", "b", [result(weak)], [result(weak)], None).comparisons
    assert sentence(better, "a", "b") == "test, exact: b is better than a"
    assert sentence(worse, "a", "b") == "test, exact: b is worse than a"
    assert sentence(same, "a", "b").startswith("test, exact: no difference could be shown")
    assert better.not_worse
    assert not worse.not_worse


def test_not_worse_needs_enough_rows() -> None:
    for count, not_worse in ((50, False), (2000, True)):
        before, after = [row % 100 > 0 for row in range(count)], [row % 100 > 0 for row in range(count)]
        after[1], before[2] = False, False
        [found] = compare_all("a", "b", [result(before)], [result(after)], None).comparisons
        assert found.not_worse == not_worse


def test_a_p_value_counts_for_less_the_more_tests_are_looked_at() -> None:
    names = [f"test-{number}" for number in range(5)]
    before = [result([row >= 6 for row in range(60)], names[0]), *(result([True] * 60, name) for name in names[1:])]
    after = [result([True] * 60, name) for name in names]
    alone = compare_all("a", "b", before[:1], after[:1], None).comparisons[0]
    among = compare_all("a", "b", before, after, None).comparisons[0]
    assert alone.p_holm == alone.comparison.p_value == pytest.approx(0.03125)
    assert among.p_holm == pytest.approx(5 * 0.03125)
    assert "no difference" in sentence(among, "a", "b")


def test_rows_that_ask_the_same_are_no_separate_evidence() -> None:
    passes = [row < 40 for row in range(80)]
    asked = [f"Question  {row % 8}" for row in range(80)]
    [apart] = compare_all("a", "b", [result([False] * 80)], [result(passes)], None).comparisons
    [together] = compare_all(
        "a", "b", [result([False] * 80, prompts=asked)], [result(passes, prompts=asked)], None
    ).comparisons
    wide, narrow = (one.comparison.gain.high - one.comparison.gain.low for one in (together, apart))
    assert wide != narrow


def test_other_rows_are_an_error() -> None:
    with pytest.raises(RunError, match="answered different rows"):
        compare_all("a", "b", [result([True, False])], [result([True])], None)


def test_forgetting_is_compared_on_the_same_anchors() -> None:
    def anchors(value: float) -> list[PromptDivergence]:
        return [
            PromptDivergence(set="anchors", prompt=f"p{n}", tokens=50, divergence=value + n / 100) for n in range(20)
        ]

    more = forgetting_between(anchors(0.1), anchors(0.3))
    assert more is not None
    assert more.value == pytest.approx(0.2)
    assert forgetting_between(anchors(0.1), []) is None
