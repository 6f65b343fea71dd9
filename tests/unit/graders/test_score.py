"""What each grader gives, when it counts as passed, and what is refused before a run."""

import pytest

from residency.config.graders import (
    Grader,
    JsonMatch,
    LabelModel,
    ModelMessage,
    Multi,
    Python,
    ScoreModel,
    StringCheck,
    TextSimilarity,
)
from residency.errors import GraderError
from residency.graders.score import check_grader, check_graders, grade, grade_all

ROW = {"reference": "Yes"}
ASK = [ModelMessage(role="user", content="{{ sample.output_text }}")]


@pytest.mark.parametrize(
    ("operation", "output", "passed"),
    [
        ("eq", "Yes", True), ("eq", "yes", False), ("eq", "Yes ", False),
        ("ne", "No", True), ("ne", "Yes", False),
        ("like", "Oh Yes!", True), ("like", "oh yes", False),
        ("ilike", "oh yes", True), ("ilike", "no", False),
    ],
)  # fmt: skip
def test_string_check_compares_and_passes_or_fails(operation: str, output: str, passed: bool) -> None:
    graded = grade(StringCheck(operation=operation), ROW, output)  # type: ignore[arg-type]
    assert (graded.score, graded.passed, graded.error) == (float(passed), passed, None)


def test_scores_pass_only_with_a_threshold() -> None:
    assert grade(TextSimilarity(), ROW, "Yes").passed is None
    assert grade(TextSimilarity(pass_threshold=0.8), ROW, "Yes").passed is True
    assert grade(TextSimilarity(pass_threshold=0.8), ROW, "no").passed is False


def test_json_match_passes_as_a_whole_and_scores_in_part() -> None:
    row = {"reference": '{"a": 1, "b": 2}'}
    assert grade(JsonMatch(), row, '{"b": 2, "a": 1.0}').passed is True
    assert grade(JsonMatch(), row, '{"b": 3, "a": 1}').passed is False
    part = grade(JsonMatch(partial=True), row, '{"b": 3, "a": 1}')
    assert (part.score, part.passed) == (0.5, None)


def test_multi_computes_its_formula_from_its_parts() -> None:
    multi = Multi(
        graders={"exact": StringCheck(), "near": TextSimilarity()},
        calculate_output="0.25 * exact + 0.75 * near",
        pass_threshold=0.9,
    )
    assert (grade(multi, ROW, "Yes").score, grade(multi, ROW, "Yes").passed) == (1.0, True)
    assert 0 < grade(multi, ROW, "Ye").score < 0.75


def test_multi_without_a_value_scores_0_and_says_why() -> None:
    graded = grade(Multi(graders={"x": StringCheck()}, calculate_output="1 / x"), ROW, "no")
    assert graded.score == 0
    assert "no value" in (graded.error or "")


def test_an_error_in_a_part_is_passed_on() -> None:
    broken = Python(source="def grade(sample, item):\n    return None")
    graded = grade(Multi(graders={"p": broken}, calculate_output="p + 1"), ROW, "x")
    assert graded.score == 1.0
    assert "p: TypeError" in (graded.error or "")


def test_an_answer_without_the_part_asked_for_fails_and_says_why() -> None:
    graded = grade(StringCheck(input="{{ sample.output_json.intent }}"), ROW, "Sure!")
    assert (graded.score, graded.passed) == (0.0, False)
    assert "output_json" in (graded.error or "")


def test_tool_calls_can_be_checked() -> None:
    by_name = StringCheck(input="{{ sample.output_tools[0].function.name }}", reference="turn_on")
    assert grade(by_name, {}, "", output_tools=[{"function": {"name": "turn_on", "arguments": "{}"}}]).passed


def test_all_graders_grade_all_answers_in_order() -> None:
    items = [{"reference": str(row)} for row in range(50)]
    graders: list[Grader] = [
        StringCheck(), Python(source="def grade(sample, item):\n    return int(item['reference']) / 100"),
    ]  # fmt: skip
    grades = grade_all(graders, items, [str(row) if row % 2 else "?" for row in range(50)])
    assert [each["string_check"].passed for each in grades] == [bool(row % 2) for row in range(50)]
    assert [each["python"].score for each in grades] == [row / 100 for row in range(50)]


@pytest.mark.parametrize(
    ("grader", "words"),
    [
        (StringCheck(reference="{{ row.x }}"), "row"),
        (TextSimilarity(input="{{ sample.text }}"), "text"),
        (JsonMatch(reference="{{ item.x"), "not closed"),
        (Python(source="def grade(sample, item) return 1"), "cannot be read"),
        (Python(source="def score(sample, item): return 1"), "no function `grade`"),
        (Python(source="#" * 300_000 + "\ndef grade(sample, item): return 1"), "longer than 256 KiB"),
        (Multi(graders={"a": StringCheck()}, calculate_output="a + b"), "no grader `b`"),
        (Multi(graders={"a": StringCheck(input="{{ x }}")}, calculate_output="a"), "unknown name `x`"),
        (LabelModel(model="m", input=ASK, labels=["a"], passing_labels=["b"], base_url="http://j"), "b"),
        (LabelModel(model="m", input=ASK, labels=["a"], passing_labels=[], base_url="http://j"), "empty"),
        (ScoreModel(model="m", input=ASK, range=(1.0, 1.0), base_url="http://j"), "range"),
        (ScoreModel(model="m", input=ASK), "no endpoint"),
    ],
)
def test_a_grader_that_could_never_work_is_refused_early(
    grader: Grader, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(GraderError, match=words) as caught:
        check_grader(grader)
    assert caught.value.param


def test_all_problems_of_all_graders_are_shown_together() -> None:
    with pytest.raises(GraderError) as caught:
        check_graders([StringCheck(input="{{ x }}"), Python(source="1"), StringCheck()])
    assert len(caught.value.problems) == 3
    assert "two graders are named `string_check`" in str(caught.value)
