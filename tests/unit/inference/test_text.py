"""Pieces of text are whole characters, hold no part of a stop string, and join to what all tokens say."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from residency.inference.text import TextStream
from tests.unit.inference.small import make_tokenizer

TOKENIZER = make_tokenizer()


def as_sentencepiece() -> PreTrainedTokenizerFast:
    """Spaces as a mark before words, the first one dropped, and bytes for what is not in the vocabulary."""
    pieces = [
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\u2581",
        "\u2581turn",
        "\u2581on",
        "light",
        "s",
        "t",
    ]
    vocab = {piece: id for id, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab, [], byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


METASPACE = as_sentencepiece()


def spoken(tokenizer: PreTrainedTokenizerFast, ids: list[int], *stops: str) -> tuple[list[str], TextStream]:
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    stream = TextStream(tokenizer, special, stops)
    pieces = []
    for id in ids:
        pieces.append(stream.push(id))
        if stream.stopped:
            return pieces, stream
    return [*pieces, stream.finish()], stream


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=40))
def test_joined_pieces_of_any_tokens_are_the_whole_text(ids: list[int]) -> None:
    pieces, _ = spoken(TOKENIZER, ids)
    assert "".join(pieces) == TOKENIZER.decode(ids, skip_special_tokens=True)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=12))
def test_so_they_are_where_spaces_are_marks_and_rare_characters_bytes(text: str) -> None:
    ids = METASPACE.encode(f"turn on{text}")
    pieces, _ = spoken(METASPACE, ids)
    assert "".join(pieces) == METASPACE.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30))
def test_no_piece_breaks_a_character(text: str) -> None:
    pieces, _ = spoken(TOKENIZER, TOKENIZER.encode(text))
    assert "".join(pieces) == text
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces) or "\N{REPLACEMENT CHARACTER}" in text


@settings(max_examples=100, deadline=None)
@given(st.text("abc\n", max_size=30), st.lists(st.text("abc\n", min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_stop_string_ends_the_text_wherever_tokens_break(text: str, stops: list[str]) -> None:
    pieces, stream = spoken(TOKENIZER, TOKENIZER.encode(text), *stops)
    first = min((text.find(stop) for stop in stops if stop in text), default=-1)
    assert stream.stopped == (first >= 0)
    assert "".join(pieces) == (text if first < 0 else "".join(pieces))
    if first >= 0:
        assert text.startswith("".join(pieces))
        assert not any(stop in "".join(pieces) for stop in stops)


@pytest.mark.parametrize("stop", ["light.", "on the light", "n t"])
def test_nothing_of_a_stop_string_is_shown(stop: str) -> None:
    pieces, stream = spoken(TOKENIZER, TOKENIZER.encode("turn on the light. And more."), stop)
    assert stream.stopped
    assert "".join(pieces) == "turn on the light. And more.".split(stop)[0]
