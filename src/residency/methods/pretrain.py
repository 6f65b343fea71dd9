"""Continued pre-training: plain text in, next-token loss on every token."""

from __future__ import annotations

from collections.abc import Sequence

from residency.data.messages import Rendered


def windows(documents: Sequence[Rendered], length_tokens: int) -> list[Rendered]:
    """Cuts each document into pieces of at most `length_tokens`, so that no text is lost.

    Neighbouring pieces share one token, the last of one being the first of the next, so that every token but a
    document's first is predicted exactly once.
    """
    pieces: list[Rendered] = []
    for document in documents:
        for start in range(0, max(1, len(document) - 1), length_tokens - 1):
            part = slice(start, start + length_tokens)
            trained = document.trained[part].copy()
            trained[0] = False
            pieces.append(Rendered(document.input_ids[part], trained, document.origin))
    return pieces
