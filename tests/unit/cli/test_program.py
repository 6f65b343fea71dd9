"""What holds for every command."""

from __future__ import annotations

import inspect
import io
import json
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import typer.main

from residency import errors
from residency.cli import app, main
from residency.cli.program import EXIT_CODES, bug
from residency.cli.train import GATE_FAILED

README = Path(__file__).parents[3] / "README.md"
COMMANDS = [
    ["advise"],
    ["train"],
    ["sweep"],
    ["eval"],
    ["chat"],
    ["check"],
    ["compare"],
    ["convert"],
    ["select"],
    ["estimate"],
    ["runs"],
    ["runs", "list"],
    ["runs", "show"],
    ["report"],
    ["models", "list"],
    ["models", "fetch"],
    ["export"],
    ["import"],
    ["serve"],
    ["keys", "create"],
    ["keys", "list"],
    ["keys", "revoke"],
]


def help_of(*words: str) -> str:
    stdout = io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(io.StringIO()):
        assert main([*words, "--help"]) == 0
    return stdout.getvalue()


def test_all_commands_are_here() -> None:
    assert {words[0] for words in COMMANDS} == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_takes_json_and_explains_itself(words: list[str]) -> None:
    text = help_of(*words)
    assert "--json" in text or words == ["serve"]  # its answers are HTTP's
    assert f"Usage: residency {' '.join(words)}" in text


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[-1] not in ("runs", "list")], ids=" ".join)
def test_every_command_with_arguments_shows_an_example(words: list[str]) -> None:
    assert re.search(rf"residency {' '.join(words)} \S", help_of(*words).partition("Options")[2])


def test_every_error_has_its_exit_code_in_the_help_and_in_the_readme() -> None:
    kinds = [
        kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.ResidencyError)
    ]
    assert set(EXIT_CODES) == {0, 2, GATE_FAILED, *(kind.exit_code for kind in kinds)}
    overview, readme = " ".join(help_of().split()), README.read_text(encoding="utf-8")
    for code, meaning in EXIT_CODES.items():
        assert f"{code}: {meaning}" in overview
        assert f"| {code} | {meaning}" in readme


def test_every_command_stands_in_the_readme() -> None:
    readme = README.read_text(encoding="utf-8")
    for words in COMMANDS:
        assert f"`residency {words[0]}" in readme


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["convert", "in.jsonl", "out.jsonl"], "Missing option '--to'. Choose from: chat, prompt_completion"),
        (["check"], "Missing argument 'DATA_OR_RUN_YAML'."),
        (["check", "in.jsonl", "--modl", "x"], "No such option: --modl"),
        (["chekc"], "Did you mean 'check'?"),
    ],
)
def test_wrong_arguments_are_an_object_too_with_json(words: list[str], said: str) -> None:
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        assert main([*words, "--json"]) == 2
    assert said in json.loads(stdout.getvalue())["error"]["message"]
    assert stderr.getvalue() == ""


def test_an_exception_that_is_not_ours_is_one_line_and_asks_for_debug() -> None:
    error = bug(RuntimeError("shapes differ:\n  (1, 2)\n  (2, 1)"))
    assert error.exit_code == 1
    assert error.message == "a bug of ours: RuntimeError: shapes differ: (1, 2) (2, 1)"
    assert "--debug" in str(error)


def test_the_version_is_shown() -> None:
    stdout = io.StringIO()
    with redirect_stdout(stdout):
        assert main(["--version"]) == 0
    assert re.fullmatch(r"residency \d+\.\d+\.\d+\n", stdout.getvalue())
