"""Templates that a user names for a base model."""

from __future__ import annotations

from pathlib import Path

import pytest

from residency.data.templates import NAMED, resolve_template
from residency.errors import TemplateError

TURNS = "{% for m in messages %}<|START|>{{ m.role + ':' + m.content }}END{% endfor %}"


def test_known_names() -> None:
    assert resolve_template("chatml").end_of_turn == "<|im_end|>"
    assert resolve_template("llama3").special_tokens == ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


@pytest.mark.parametrize("name", NAMED)
def test_a_named_template_is_understood_as_a_file_is(name: str, tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text(NAMED[name].jinja)
    found = resolve_template(str(tmp_path / "own.jinja"))
    assert (found.end_of_turn, set(found.special_tokens)) == (NAMED[name].end_of_turn, set(NAMED[name].special_tokens))


@pytest.mark.parametrize(
    ("end", "end_of_turn", "special_tokens"),
    [
        ("<|end|>\n", "<|end|>", ("<|START|>", "<|end|>")),
        ("[END] ", "[END]", ("<|START|>", "[END]")),
        ("{{ eos_token }}", "", ("<|START|>",)),
    ],
)
def test_a_files_tokens_are_found_by_rendering(
    tmp_path: Path, end: str, end_of_turn: str, special_tokens: tuple[str, ...]
) -> None:
    (tmp_path / "own.jinja").write_text(TURNS.replace("END", end))
    found = resolve_template(str(tmp_path / "own.jinja"))
    assert (found.end_of_turn, found.special_tokens) == (end_of_turn, special_tokens)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (TURNS.replace("END", "\n"), "nothing after an answer"),
        (TURNS.replace("END", "\n### end"), "ends an answer with '### end'"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "no answers"),
        ("{% for m in messages %}", "no working chat template"),
        ("{{ raise_exception('no') }}", "no working chat template: no"),
    ],
)
def test_a_file_that_is_no_usable_template_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "own.jinja").write_text(content)
    with pytest.raises(TemplateError, match=reason):
        resolve_template(str(tmp_path / "own.jinja"))


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(TemplateError, match="'chatlm'") as caught:
        resolve_template("chatlm")
    assert caught.value.hint == "write chatml, llama3, or the path of a Jinja file"
