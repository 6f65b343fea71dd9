"""Text from tokens as they come: characters whole, and nothing that may yet become a stop string."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

BROKEN = "\N{REPLACEMENT CHARACTER}"
"""What a decoder writes for bytes that are no whole character, or not yet."""


class TextStream:
    """The pieces it gives out, joined, are what the tokenizer makes of all tokens at once, up to the first stop."""

    def __init__(self, tokenizer: Any, hidden_ids: Collection[int], stops: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._hidden_ids = hidden_ids
        self._stops = [stop for stop in stops if stop]
        self._ids: list[int] = []
        self._context = 0
        """Where decoding starts: a token's text may depend on the one before it."""
        self._settled = 0
        """Tokens whose text is in `text`."""
        self.text = ""
        self.given = 0
        """Characters of `text` that were given out."""
        self.stopped = False

    def push(self, token: int) -> str:
        """Takes a token; returns what can be given out now."""
        if token not in self._hidden_ids:
            self._ids.append(token)
            self._settle(last=False)
        return self._give_out(last=False)

    def finish(self) -> str:
        """What was held back."""
        self._settle(last=True)
        return self._give_out(last=True)

    def _settle(self, *, last: bool) -> None:
        if self._settled == len(self._ids) or self.stopped:
            return
        known = self._decode(self._ids[self._context : self._settled])
        whole = self._decode(self._ids[self._context :])
        if last or (len(whole) > len(known) and not whole.endswith(BROKEN)):
            self.text += whole[len(known) :]
            self._context, self._settled = self._settled, len(self._ids)

    def _give_out(self, *, last: bool) -> str:
        found = [place for stop in self._stops if (place := self.text.find(stop, self.given)) >= 0]
        if found:
            self.text, self.stopped = self.text[: min(found)], True
        end = len(self.text)
        if not (last or self.stopped):
            end -= max((overlap(self.text[self.given :], stop) for stop in self._stops), default=0)
        piece, self.given = self.text[self.given : end], end
        return piece

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def overlap(text: str, beginning_of: str) -> int:
    """Length of the longest end of `text` that `beginning_of` begins with, without being all of it."""
    longest = min(len(text), len(beginning_of) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(beginning_of[:n])), 0)
