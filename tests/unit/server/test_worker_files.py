"""What a client reads when its file cannot be trained on: OpenAI's codes and words, and no path of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from residency.server.worker_files import FileParam, Refusal, check_file


def good(number: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": str(number)}, {"role": "assistant", "content": "yes"}]}


def check(folder: Path, some: list[Any], param: FileParam = "training_file") -> Refusal | int:
    path = folder / "file-abc.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in some))
    return check_file(path, param)


def refused(folder: Path, bad: Any, param: FileParam = "training_file") -> Refusal:
    """With one bad example after nine good ones."""
    found = check(folder, [*map(good, range(9)), bad, *map(good, range(9))], param)
    assert isinstance(found, Refusal)
    assert str(folder) not in found.message + "".join(found.problems)
    return found


def test_ten_examples_are_enough(tmp_path: Path) -> None:
    assert check(tmp_path, [good(number) for number in range(10)]) == 10


def test_nine_are_not(tmp_path: Path) -> None:
    assert check(tmp_path, [good(number) for number in range(9)]) == Refusal(
        "invalid_n_examples", "Training file has 9 example(s), but must have at least 10 examples", "training_file", []
    )


def test_a_validation_file_may_be_shorter(tmp_path: Path) -> None:
    assert check(tmp_path, [good(1)], "validation_file") == 1


@pytest.mark.parametrize(
    ("bad", "code", "words"),
    [
        ('{"messages": [', "invalid_file_format", "Example 10 cannot be parsed. Error: line contains invalid json: "),
        (good(1) | {"weight": 1}, "invalid_file_format", 'Example 10 contains an extra "weight".'),
        ({"messages": [{"content": "x"}]}, "invalid_training_file", "Example 10, message 1 has no role"),
        ({"messages": [good(1)["messages"][0], {"role": "assistant"}]}, "invalid_training_file",
         "Example 10, message 2 content is null and there are no tool_calls: nothing to answer"),
        ({"messages": [{"role": "user", "content": "x"}]}, "invalid_training_file", "Example 10 has no assistant turn"),
        ({"rows": []}, "invalid_training_file",
         "Unexpected file format, expected either prompt/completion pairs or chat messages."),
    ],
)  # fmt: skip
def test_a_bad_example_is_named_as_openai_names_it(tmp_path: Path, bad: Any, code: str, words: str) -> None:
    found = refused(tmp_path, bad)
    assert found.code == code
    assert words in found.message
    assert found.message.startswith("The job failed due to a")
    assert found.as_error() == {"code": code, "message": found.message, "param": "training_file"}


def test_the_validation_file_is_called_by_its_name(tmp_path: Path) -> None:
    found = refused(tmp_path, {"messages": []}, "validation_file")
    assert found.param == "validation_file"
    assert "invalid validation file" in found.message


def test_all_problems_are_listed_and_the_first_one_is_the_error(tmp_path: Path) -> None:
    found = check(tmp_path, [{"messages": []}, *map(good, range(9)), {"messages": [{"content": "x"}]}])
    assert isinstance(found, Refusal)
    assert found.problems == ["Example 1 has no messages", "Example 11, message 1 has no role"]
    assert found.message.endswith("Example 1 has no messages (1 more in the job's events)")


@pytest.mark.parametrize("some", [[], [{"text": "plain"}] * 12])
def test_a_file_without_conversations_is_refused(tmp_path: Path, some: list[Any]) -> None:
    found = check(tmp_path, some)
    assert isinstance(found, Refusal)
    assert str(tmp_path) not in found.message
