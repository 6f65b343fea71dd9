"""What goes wrong while decoding is told to whoever waits, and the process goes on or says that it cannot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from residency.errors import ResidencyError
from residency.inference.decoder import Decoder
from residency.inference.language import Language
from tests.unit.inference.small import Asking, by_transformers, make_batch, make_tokenizer

TOKENIZER = make_tokenizer()
LANGUAGE = Language(TOKENIZER, len(TOKENIZER), [])


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


@pytest.fixture
def decoder(model_folder: Path) -> Iterator[Decoder]:
    decoder = Decoder(make_batch(model_folder, rows=2), 4, lost.set)
    lost.clear()
    yield decoder
    decoder.stop()


lost = threading.Event()


def ask(decoder: Decoder, **settings: int) -> Asking:
    one = Asking(LANGUAGE, [5, 6, 7], **settings)
    decoder.submit([one.row])
    wait_for(lambda: one.row.finished)
    return one


def failing_once(decoder: Decoder, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, failed = decoder.batch.base.forward, []

    def once(*args: object, **kwargs: object) -> torch.Tensor:
        if not failed:
            failed.append(error)
            raise error
        return forward(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(decoder.batch.base, "forward", once)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("something odd"), "decoding_failed"),
        (torch.OutOfMemoryError("no memory"), "out_of_memory"),
    ],
    ids=["a failed step", "no memory for one row"],
)
def test_a_failure_is_told_and_the_next_request_is_answered(
    decoder: Decoder, model_folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    failing_once(decoder, error, monkeypatch)
    [told] = ask(decoder).arrived
    assert isinstance(told, ResidencyError)
    assert told.code == code
    assert ask(decoder).answer == by_transformers(model_folder, None, [5, 6, 7], 12)
    assert not lost.is_set()


def test_a_lost_device_asks_for_a_new_process(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_once(decoder, RuntimeError("CUDA error: an illegal memory access was encountered"), monkeypatch)
    [told] = ask(decoder).arrived
    assert isinstance(told, ResidencyError)
    assert told.code == "device_error"
    assert lost.wait(10)


def test_output_that_is_no_number_fails_its_row_alone(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = decoder.batch.base.forward

    def broken(*args: object, **kwargs: object) -> torch.Tensor:
        logits = forward(*args, **kwargs)  # type: ignore[arg-type]
        logits[0] = torch.nan
        return logits

    first, second = Asking(LANGUAGE, [5, 6, 7]), Asking(LANGUAGE, [8, 9])
    monkeypatch.setattr(decoder.batch.base, "forward", broken)
    decoder.submit([first.row])
    wait_for(lambda: first.row.finished)
    monkeypatch.undo()
    decoder.submit([second.row])
    wait_for(lambda: second.row.finished)
    assert isinstance(first.arrived[0], ResidencyError)
    assert first.arrived[0].code == "model_output_invalid"
    assert second.finish == "length"


def test_rows_that_nobody_waits_for_make_room(decoder: Decoder) -> None:
    endless = [
        Asking(LANGUAGE, [5, 6, 7], max_new_tokens=480, logit_bias={TOKENIZER.eos_token_id: -100}) for _ in "123"
    ]
    decoder.submit([one.row for one in endless])
    wait_for(lambda: len(decoder.batch.rows) == 2)
    for one in endless:
        one.row.finished = True
    assert ask(decoder).finish == "length"
    assert decoder.batch.idle


def test_rows_that_nobody_waits_for_keep_no_place_in_the_queue(decoder: Decoder) -> None:
    rows = [Asking(LANGUAGE, [5, 6, 7], max_new_tokens=480, logit_bias={TOKENIZER.eos_token_id: -100}).row
            for _ in range(6)]  # fmt: skip
    decoder.submit(rows)
    wait_for(lambda: len(decoder.batch.rows) == 2)
    for row in rows[2:]:
        row.finished = True
    wait_for(lambda: not decoder.batch.waiting)
    assert decoder.batch.rows == rows[:2]


def test_stopping_tells_whoever_waits(model_folder: Path) -> None:
    decoder = Decoder(make_batch(model_folder), 4, lambda: None)
    one = Asking(LANGUAGE, [5, 6, 7], max_new_tokens=480)
    decoder.submit([one.row])
    wait_for(lambda: bool(decoder.batch.rows))
    decoder.stop()
    assert isinstance(one.arrived[-1], ResidencyError)
    with pytest.raises(ResidencyError, match="unloaded"):
        decoder.submit([one.row])
