from collections.abc import Callable

import pytest

from residency.config.graders import JsonMatch, Python, StringCheck, TextSimilarity
from residency.data.messages import Example, Origin
from residency.errors import DataError, GraderError
from residency.evals.run import Completion, as_item, evaluate, few_shot_examples, last_question

Make = Callable[..., Example]


def test_every_row_is_answered_and_graded(make_example: Make) -> None:
    rows = [make_example(row) for row in range(4)]

    def generate(examples: list[Example]) -> list[Completion]:
        assert examples == rows
        answers = [examples[0].reference, "Sure!", examples[2].reference, "{}"]
        return [Completion(text, finished=text != "Sure!", tokens=7) for text in answers]

    result = evaluate("test", "tuned", rows, generate, [JsonMatch(), TextSimilarity()])
    assert [answer.grades["json_match"].passed for answer in result.answers] == [True, False, True, False]
    assert [answer.row for answer in result.answers] == [0, 1, 2, 3]
    assert [answer.finished for answer in result.answers] == [True, False, True, True]
    assert result.answers[0].prompt == rows[0].fields["question"]
    assert result.answers[0].reference == rows[0].reference
    assert (result.summaries["json_match"].value, result.summaries["json_match"].n) == (0.5, 4)
    assert result.summaries["json_match"].low == pytest.approx(0.15, abs=0.01)
    assert 0.5 < result.summaries["text_similarity"].value < 1


def test_a_wrong_grader_is_found_before_anything_is_generated(make_example: Make) -> None:
    def generate(examples: list[Example]) -> list[Completion]:
        raise AssertionError("generated")

    with pytest.raises(GraderError):
        evaluate("test", "base", [make_example(0)], generate, [Python(source="1")])


def test_a_test_without_rows_is_an_error() -> None:
    with pytest.raises(DataError, match="no rows"):
        evaluate("test", "base", [], lambda examples: [], [StringCheck()])


def test_graders_see_the_row_as_it_stood_in_the_file_and_the_answer_as_reference(make_example: Make) -> None:
    row = make_example(0)
    assert as_item(row) == {"question": row.fields["question"], "reference": row.reference}
    own = Example(Origin("t", 1), row.messages, fields={"reference": "mine"})
    assert as_item(own) == {"reference": "mine"}


def test_the_question_is_the_last_thing_the_user_said() -> None:
    row = Example(
        Origin("t", 1),
        messages=(
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "yes?"},
            {"role": "user", "content": "second"},
            {"role": "tool", "content": "data", "tool_call_id": "1"},
            {"role": "assistant", "content": "answer"},
        ),
    )
    assert last_question(row) == "second"


def test_solved_rows_come_without_system_turns_and_the_same_for_the_same_seed(make_example: Make) -> None:
    train = [make_example(row) for row in range(20)]
    turns = few_shot_examples(train, 3, seed=0)
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 3
    assert turns == few_shot_examples(train, 3, seed=0)
    assert turns != few_shot_examples(train, 3, seed=1)
    assert few_shot_examples(train, 0, seed=0) == ()
    pairs = {(turns[at]["content"], turns[at + 1]["content"]) for at in (0, 2, 4)}
    assert pairs <= {(row.fields["question"], row.reference) for row in train}


def test_a_turns_weight_is_for_training_and_stays_out_of_the_prompt() -> None:
    row = Example(
        Origin("t", 1), ({"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0})
    )
    assert few_shot_examples([row], 1, seed=0) == (row.messages[0], {"role": "assistant", "content": "a"})


def test_more_examples_than_rows_is_an_error(make_example: Make) -> None:
    with pytest.raises(DataError, match="2 examples"):
        few_shot_examples([make_example(0), Example(Origin("t", 2), text="plain")], 2, seed=0)
