"""What the argument of `residency chat` is taken for."""

from __future__ import annotations

from pathlib import Path

import pytest

from residency.cli.speaker import is_model, shared_system_text


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_lone_word_is_a_run() -> None:
    assert not is_model("smart-home")


def test_the_starter_model_a_hub_id_and_a_model_folder_are_models() -> None:
    Path("mine").mkdir()
    Path("mine/config.json").write_text("{}")
    assert all(is_model(name) for name in ("smollm2-135m", "Qwen/Qwen3-0.6B", "mine", "./mine"))


def test_the_path_of_a_run_is_a_run() -> None:
    Path("runs/one").mkdir(parents=True)
    assert not is_model("runs/one")


ANSWERED = '{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'
SYSTEM = '{"messages": [{"role": "system", "content": "Be short."}, ' + ANSWERED
PLAIN = '{"messages": [' + ANSWERED


@pytest.mark.parametrize(
    ("content", "expected"), [(SYSTEM * 2, "Be short."), (SYSTEM + PLAIN, None), (PLAIN, None), ("{", None)]
)
def test_the_system_text_is_taken_only_where_all_rows_share_it(content: str, expected: str | None) -> None:
    Path("train.jsonl").write_text(content)
    assert shared_system_text("train.jsonl") == expected


def test_without_the_training_file_there_is_no_system_text() -> None:
    assert shared_system_text("gone.jsonl") is None
    assert shared_system_text("hub:org/name") is None
