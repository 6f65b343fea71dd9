"""The surface that programs and run files rely on: nothing leaves it, and nothing joins it, by accident."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import residency
from residency import errors
from residency.config.load import field_paths, load_run

ROOT = Path(__file__).parents[2]
PINNED = Path(__file__).with_name("config_fields.txt")
ERRORS: list[type[errors.ResidencyError]] = [
    value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, errors.ResidencyError)
]


def test_public_names_are_few_and_sorted() -> None:
    assert residency.__all__ == sorted(residency.__all__)
    assert len(residency.__all__) <= 20


@pytest.mark.parametrize("name", residency.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(residency, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        residency.nothing  # noqa: B018


def test_every_error_is_public_and_drawn_in_the_tree() -> None:
    tree = errors.__doc__ or ""
    for error in ERRORS:
        assert error.__name__ in residency.__all__
        (line,) = [line for line in tree.splitlines() if error.__name__ in line.split()]
        assert f"HTTP {error.http_status}" in line
        if error.exit_code != getattr(error.__base__, "exit_code", None):
            assert f"exit {error.exit_code} " in line


def test_exit_codes_tell_branches_of_the_tree_apart() -> None:
    branches = [error for error in ERRORS if error.__base__ is errors.ResidencyError]
    assert len({error.exit_code for error in branches}) == len(branches)
    assert len({error.default_code for error in ERRORS}) == len(ERRORS)


def test_the_fields_of_a_run_file_are_pinned() -> None:
    """A new field is added to config_fields.txt by hand, and to the changelog."""
    assert sorted(field_paths()) == PINNED.read_text(encoding="utf-8").split()


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/**/*.yaml")), ids=lambda path: path.parent.name)
def test_every_example_is_a_valid_run_file(path: Path) -> None:
    assert load_run(path).data.test is not None
