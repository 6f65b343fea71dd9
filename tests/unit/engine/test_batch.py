from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from residency.data.messages import Origin, Rendered
from residency.engine.batch import collate, needed_length, plan_packs, shared_prefix
from tests.conftest import random_rows, rows_with_a_shared_start

CPU = torch.device("cpu")


def row(ids: list[int], trained: list[int]) -> Rendered:
    return Rendered(np.array(ids, np.int32), np.isin(np.arange(len(ids)), trained), Origin("rows", 1))


@given(lengths=st.lists(st.integers(1, 60)), capacity=st.integers(0, 80))
def test_every_row_is_packed_once_and_no_pass_is_over_full(lengths: list[int], capacity: int) -> None:
    packs = plan_packs(lengths, capacity)
    assert sorted(index for pack in packs for index in pack) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in pack) <= capacity or len(pack) == 1 for pack in packs)


@given(lengths=st.lists(st.integers(1, 60), min_size=1))
def test_half_of_the_room_is_used_at_least(lengths: list[int]) -> None:
    assert len(plan_packs(lengths, 60)) <= -(-2 * sum(lengths) // 60) + 1


def test_what_follows_the_last_target_and_that_target_itself_need_no_pass() -> None:
    assert needed_length(row([5, 6, 7, 8, 9], trained=[1, 2])) == 2


def test_rows_lie_behind_one_another_and_positions_restart() -> None:
    pack = collate({"a": [(7, row([1, 2, 3], [1, 2]))], "b": [(4, row([5, 6, 7, 8], [3]))]}, CPU)
    assert pack.input_ids.tolist() == [[1, 2, 5, 6, 7]]
    assert pack.position_ids.tolist() == [[0, 1, 0, 1, 2]]
    assert [(d.start, d.end) for d in pack.documents] == [(0, 2), (2, 5)]
    assert pack.predictors.tolist() == [0, 1, 4]
    assert pack.targets.tolist() == [2, 3, 8]
    assert pack.row_of_target.tolist() == [0, 0, 1]
    assert [(s.adapter, s.start, s.end) for s in pack.segments] == [("a", 0, 2), ("b", 2, 5)]
    assert pack.rows == (7, 4)


def test_what_rows_share_is_found_up_to_the_first_trained_token() -> None:
    same = list(range(10, 22))
    assert shared_prefix([row([*same, 1, 2], [13]), row([*same, 3, 4], [13])]) == 12
    assert shared_prefix([row([*same, 1, 2], [9, 13]), row([*same, 3, 4], [13])]) == 9
    assert shared_prefix([row([*same, 1, 2], [13])]) == 0
    assert shared_prefix([row([1, 2, 3], [2]), row([1, 2, 4], [2])]) == 0, "too short to be worth it"


def test_a_shared_start_stands_there_once() -> None:
    rows = rows_with_a_shared_start(5)
    members = {"a": list(enumerate(rows))}
    whole, shared = collate(members, CPU), collate(members, CPU, share_prefix=True)
    assert whole.input_ids.numel() - shared.input_ids.numel() == 4 * 12
    assert shared.targets.tolist() == whole.targets.tolist()
    assert shared.documents[0].prefix is None
    assert {d.prefix for d in shared.documents[1:]} == {(0, 12)}
    predicting = [p.input_ids[0, p.predictors].tolist() for p in (whole, shared)]
    assert predicting[0] == predicting[1]
    assert shared.position_ids[0, shared.predictors].tolist() == whole.position_ids[0, whole.predictors].tolist()


def test_documents_and_segments_have_no_gaps() -> None:
    pack = collate({"a": list(enumerate(random_rows(4))), "b": list(enumerate(random_rows(3, seed=1)))}, CPU,
                   share_prefix=True)  # fmt: skip
    for parts in (pack.documents, pack.segments):
        assert [part.start for part in parts] == [0, *(part.end for part in parts[:-1])]
        assert parts[-1].end == pack.input_ids.shape[1]
