"""Passes beside one another change when a step is done, and nothing else."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from peft import LoraConfig

from residency.data.messages import Rendered
from residency.engine.batch import split_evenly
from residency.engine.engine import Engine
from residency.engine.lanes import beside, streams
from residency.engine.optim import StepSettings
from residency.engine.sampling import SamplingSettings
from tests.conftest import random_rows, rows_with_a_shared_start, tiny_llama

LORA = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
PROMPTS = [[5, 6, 7, *range(20, 20 + count)] for count in (3, 9, 5, 7, 2)]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def trained(threads: int, **settings: int) -> tuple[Engine, list[float]]:
    """Two adapters after three steps, and their losses, with so many threads."""
    torch.set_num_threads(threads)
    engine = Engine(tiny_llama(), **settings)
    for name in ("one", "two"):
        engine.add_adapter(name, LORA, seed=len(name))
    losses = []
    for step in range(3):
        batches = {"one": rows_with_a_shared_start(8), "two": random_rows(5, seed=step)}
        losses += [loss.total for loss in engine.forward_backward(batches).values()]
        engine.step(dict.fromkeys(batches, StepSettings(1e-3)))
    return engine, losses


def weights(engine: Engine) -> dict[str, torch.Tensor]:
    return {f"{name} {key}": p.detach() for name in ("one", "two") for key, p in engine.parameters(name).items()}


@pytest.mark.parametrize("micro_batch_tokens", [2048, 96])
def test_losses_and_weights_are_those_of_one_pass_after_another(micro_batch_tokens: int) -> None:
    alone, expected = trained(1, micro_batch_tokens=micro_batch_tokens)
    both, losses = trained(2, micro_batch_tokens=micro_batch_tokens)
    assert losses == pytest.approx(expected, rel=1e-5)
    for key, weight in weights(alone).items():
        torch.testing.assert_close(weights(both)[key], weight, rtol=1e-4, atol=1e-5, msg=key)


def test_two_runs_with_as_many_threads_are_equal_to_the_bit() -> None:
    (first, losses), (second, again) = trained(2), trained(2)
    assert losses == again
    assert all((weights(second)[key] == weight).all() for key, weight in weights(first).items())


def test_scores_and_greedy_answers_are_the_same() -> None:
    engine, _ = trained(1)
    rows, greedy = random_rows(7), SamplingSettings(6)
    scores, answers = engine.logprobs("one", rows), engine.sample("one", PROMPTS, greedy)
    torch.set_num_threads(2)
    for one, other in zip(engine.logprobs("one", rows), scores, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=1e-5, atol=1e-6)
    assert engine.sample("one", PROMPTS, greedy) == answers


def test_what_is_drawn_does_not_depend_on_the_number_of_threads() -> None:
    engine, _ = trained(1)
    drawn = engine.sample("two", PROMPTS, SamplingSettings(6, temperature=1.0, seed=3))
    torch.set_num_threads(2)
    assert engine.sample("two", PROMPTS, SamplingSettings(6, temperature=1.0, seed=3)) == drawn


def test_a_listener_who_goes_away_ends_the_work() -> None:
    torch.set_num_threads(2)
    engine, before = Engine(tiny_llama()), threading.active_count()
    tokens = engine.stream(None, PROMPTS, SamplingSettings(200))
    next(tokens)
    tokens.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert torch.get_num_threads() == 2


def test_all_passes_have_ended_when_one_has_failed() -> None:
    ended = []

    def work(item: int) -> None:
        if item == 0:
            raise RuntimeError("the first")
        threading.Event().wait(0.05)
        ended.append(item)

    with pytest.raises(RuntimeError, match="the first"):
        beside(work, [0, 1, 2], 3)
    assert sorted(ended) == [1, 2]

    def stream(item: int) -> Iterator[int]:
        yield item
        work(item)

    with pytest.raises(RuntimeError, match="the first"):
        list(streams(stream, [0, 1]))


INTERRUPTED = threading.Event()


def interrupt_twice() -> None:
    for _ in range(2):
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.2)
    INTERRUPTED.set()


def until_then(item: int) -> Iterator[int]:
    yield item
    INTERRUPTED.wait(10)
    yield item


def listen() -> None:
    list(streams(until_then, [0, 1]))


def stop_listening() -> None:
    found = streams(until_then, [0, 1])
    next(found)
    found.close()


def pass_after_pass() -> None:
    beside(lambda item: list(until_then(item)), [0, 1, 2, 3], 2)


@pytest.mark.parametrize("work", [listen, stop_listening, pass_after_pass])
def test_who_interrupts_them_twice_waits_for_what_has_begun(work: Callable[[], None]) -> None:
    """Threads that go on after it would abort the process at its end."""
    INTERRUPTED.clear()
    running = len(sys._current_frames())
    user = threading.Thread(target=interrupt_twice)
    user.start()
    with pytest.raises(KeyboardInterrupt):
        work()
    assert INTERRUPTED.is_set()
    user.join()
    assert len(sys._current_frames()) <= running


def test_they_take_gradients_where_the_caller_does_and_share_its_threads() -> None:
    torch.set_num_threads(4)
    with torch.no_grad():
        assert beside(lambda _: (torch.is_grad_enabled(), torch.get_num_threads()), [0, 1], 2) == [(False, 2)] * 2
    assert beside(lambda _: torch.is_grad_enabled(), [0, 1], 2) == [True] * 2
    assert torch.get_num_threads() == 4


def test_where_two_passes_do_not_fit_they_come_one_after_another() -> None:
    torch.set_num_threads(2)
    rows, told = random_rows(8), []
    engine = Engine(tiny_llama(), micro_batch_tokens=256, on_smaller_micro_batch=told.append)
    engine.add_adapter("one", LORA, seed=1)
    running, most = [0], [0]

    def count(module: object, args: object, kwargs: object) -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        threading.Event().wait(0.02)
        running[0] -= 1
        if most[0] > 1:
            most[0] = 0
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4294967296 bytes")

    engine._base.base_model.register_forward_pre_hook(count, with_kwargs=True)
    loss = engine.forward_backward({"one": rows})["one"]
    assert loss.total == pytest.approx(reference(rows), rel=1e-5)
    assert told


def reference(rows: Sequence[Rendered]) -> float:
    torch.set_num_threads(1)
    engine = Engine(tiny_llama())
    engine.add_adapter("one", LORA, seed=1)
    return engine.forward_backward({"one": rows})["one"].total


def test_rows_are_split_evenly() -> None:
    assert split_evenly([5, 9, 2, 4, 1], 2) == [[1, 2], [0, 3, 4]]
    assert split_evenly([3], 2) == [[0]]
    lengths = [int(n) for n in np.random.default_rng(0).integers(1, 40, 100)]
    totals = [sum(lengths[i] for i in part) for part in split_evenly(lengths, 4)]
    assert max(totals) - min(totals) <= 2
