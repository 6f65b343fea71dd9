"""Over-long rows follow the stated policy, and each one touched is named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from residency.data.lengths import fit_length
from residency.data.messages import Origin, Rendered
from residency.errors import DataError


def row(prompt: int, answer: int, line: int = 1) -> Rendered:
    """Token ids count from 1, so that each one tells its place."""
    length = prompt + answer
    return Rendered(np.arange(1, length + 1, dtype=np.int32), np.arange(length) >= prompt, Origin("a.jsonl", line))


def test_rows_that_fit_stay_as_they_are() -> None:
    rows = [row(3, 2), row(1, 4)]
    fitted = fit_length(rows, 5, "drop")
    assert (fitted.kept, fitted.dropped, fitted.cut) == (rows, [], [])


def test_drop_names_what_it_drops() -> None:
    fitted = fit_length([row(3, 2), row(4, 2, line=2)], 5, "drop")
    assert [len(kept) for kept in fitted.kept] == [5]
    assert fitted.dropped == [Origin("a.jsonl", 2)]


def test_refuse_names_all_over_long_rows() -> None:
    with pytest.raises(DataError, match="longer than 5 tokens: 2 of 3 rows") as caught:
        fit_length([row(4, 2), row(1, 1), row(9, 9, line=3)], 5, "refuse")
    assert caught.value.problems == ["a.jsonl:1: 6 tokens", "a.jsonl:3: 18 tokens"]


def test_cut_prompt_takes_from_the_front() -> None:
    fitted = fit_length([row(6, 2)], 5, "cut_prompt")
    assert fitted.kept[0].input_ids.tolist() == [4, 5, 6, 7, 8]
    assert fitted.kept[0].trained.tolist() == [False, False, False, True, True]
    assert fitted.cut == [Origin("a.jsonl", 1)]


def test_cut_prompt_keeps_the_start_token() -> None:
    fitted = fit_length([row(6, 2)], 5, "cut_prompt", bos_id=1)
    assert fitted.kept[0].input_ids.tolist() == [1, 5, 6, 7, 8]


def test_cut_prompt_never_cuts_into_the_answer() -> None:
    fitted = fit_length([row(3, 5)], 5, "cut_prompt")
    assert (fitted.kept, fitted.dropped) == ([], [Origin("a.jsonl", 1)])


def test_cut_answer_takes_from_the_end() -> None:
    fitted = fit_length([row(3, 5), row(7, 1)], 5, "cut_answer")
    assert [kept.input_ids.tolist() for kept in fitted.kept] == [[1, 2, 3, 4, 5]]
    assert fitted.dropped == [Origin("a.jsonl", 1)], "nothing trained would be left"


@given(
    sizes=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=6),
    limit=st.integers(1, 20),
    policy=st.sampled_from(["drop", "cut_prompt", "cut_answer"]),
    bos_id=st.sampled_from([None, 1]),
)
def test_every_row_is_kept_or_dropped_and_never_longer(
    sizes: list[tuple[int, int]], limit: int, policy: str, bos_id: int | None
) -> None:
    rows = [row(*size, line=line) for line, size in enumerate(sizes)]
    fitted = fit_length(rows, limit, policy, bos_id=bos_id)  # type: ignore[arg-type]
    assert [kept.origin.line for kept in fitted.kept] == [
        one.origin.line for one in rows if one.origin not in fitted.dropped
    ]
    answers = {one.origin: one.trained.sum() for one in rows}
    for kept in fitted.kept:
        assert len(kept) <= limit
        assert kept.trained.any()
        assert not kept.trained[0]
        assert policy == "cut_answer" or kept.trained.sum() == answers[kept.origin]
