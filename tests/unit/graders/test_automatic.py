import pytest

from residency.graders.automatic import choose_graders


def test_json_references_are_compared_as_json_as_a_whole_and_by_field() -> None:
    graders, reason = choose_graders(['{"a": 1}', "[1]"])
    assert [(grader.type, grader.name) for grader in graders] == [
        ("json_match", "json_match"),
        ("json_match", "json_fields"),
    ]
    assert "all 2 reference answers are JSON" in reason


@pytest.mark.parametrize("references", [['{"a": 1}', "yes"], ["1", "2"], ["true"], []])
def test_other_references_are_compared_as_text(references: list[str]) -> None:
    graders, reason = choose_graders(references)
    assert [grader.type for grader in graders] == ["string_check", "text_similarity"]
    assert f"of {len(references)} reference answers" in reason
