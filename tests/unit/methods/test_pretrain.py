from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from residency.data.messages import Origin, Rendered
from residency.methods.pretrain import windows


def document(length: int) -> Rendered:
    trained = np.ones(length, dtype=np.bool_)
    trained[0] = False
    return Rendered(np.arange(length, dtype=np.int32), trained, Origin("book.txt", 1))


@given(length=st.integers(1, 70), window=st.integers(2, 20))
def test_every_token_but_the_first_is_predicted_once_and_no_window_is_too_long(length: int, window: int) -> None:
    pieces = windows([document(length)], window)
    predicted = [int(token) for piece in pieces for token in piece.input_ids[piece.trained]]
    assert predicted == list(range(1, length))
    assert all(len(piece) <= window and not piece.trained[0] for piece in pieces)


def test_a_document_that_fits_stays_whole() -> None:
    [piece] = windows([document(8)], 8)
    assert len(piece) == 8
