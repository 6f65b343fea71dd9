"""How an error reads."""

from __future__ import annotations

from residency.errors import SHOWN, DataError


def test_what_is_said_of_many_rows_is_shown_for_three_and_counted() -> None:
    same = [f"rows.jsonl:{line}: has no answer" for line in range(1, 13)]
    error = DataError("12 of 20 rows", problems=[*same, "rows.jsonl:13: is empty"])
    assert str(error).splitlines() == [
        "12 of 20 rows",
        "  - rows.jsonl:1: has no answer",
        "  - rows.jsonl:2: has no answer",
        "  - rows.jsonl:3: has no answer",
        "  - and 9 more: has no answer",
        "  - rows.jsonl:13: is empty",
    ]
    assert len(error.as_record()["problems"]) == 13


def test_different_problems_are_all_shown_up_to_a_limit() -> None:
    text = str(DataError("many", problems=[f"rows.jsonl:{line}: holds {line}" for line in range(SHOWN + 7)]))
    assert text.splitlines()[-1] == "  - and 7 more"
    assert len(text.splitlines()) == SHOWN + 2
