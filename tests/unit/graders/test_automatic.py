import pytest

from residency.graders.automatic import choose_graders
from residency.wording import counted


def test_json_references_are_compared_as_json_as_a_whole_and_by_field() -> None:
    graders, reason = choose_graders(['{"a": 1}', "[1]"])
    assert [(grader.type, grader.name) for grader in graders] == [
        ("json_match", "json_match"),
        ("json_match", "json_fields"),
    ]
    assert "every reference answer (2) is a JSON" in reason


@pytest.mark.parametrize("references", [['{"a": 1}', "yes"], ["1", "2"], ["true"], []])
def test_other_references_are_compared_as_text(references: list[str]) -> None:
    graders, reason = choose_graders(references)
    assert [grader.type for grader in graders] == ["string_check", "text_similarity"]
    assert counted(len(references), "reference answer") in reason
