"""Numbers are written as people read them."""

from __future__ import annotations

from residency.wording import counted


def test_one_of_a_thing_is_no_plural() -> None:
    assert [counted(number, "row") for number in (0, 1, 2, 12345)] == ["0 rows", "1 row", "2 rows", "12,345 rows"]
    assert counted(1, "pass", "passes") == "1 pass"
    assert counted(2, "pass", "passes") == "2 passes"
