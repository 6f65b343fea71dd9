"""Compiled layers give the loss and gradients of the same layers uncompiled, or are not used."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig

from residency.data.messages import Origin, Rendered
from residency.engine.compiled import BOUNDS, Compilation
from residency.engine.engine import Engine
from residency.engine.optim import StepSettings
from residency.engine.speed import Speed, no_compiler
from residency.models.starter import cache_folder
from tests.conftest import random_rows, tiny_llama
from tests.unit.engine.test_families import make

MISSING = no_compiler(torch.device("cpu"))
needs_compiler = pytest.mark.skipif(MISSING is not None, reason=f"torch cannot compile here: {MISSING}")
KINDS: dict[str, dict[str, Any]] = {"plain": {}, "dropout": {"lora_dropout": 0.5}, "dora": {"use_dora": True}}


def lora(**more: Any) -> LoraConfig:
    return LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **more)


def engine_of(model: Any, kind: str, *, on: bool, **settings: Any) -> tuple[Engine, list[Compilation]]:
    said: list[Compilation] = []
    speed = Speed(compile=on, layers_formed_again=settings.pop("again", 0))
    engine = Engine(model, speed=speed, on_compiled=said.append, **settings)
    if kind == "full":
        engine.train_all_weights()
    else:
        engine.add_adapter("one", lora(**KINDS[kind]), seed=1)
    return engine, said


def after_two_steps(engine: Engine, rows: list[list[Rendered]]) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The losses of three passes, and the gradients of the last: by then B is not zero."""
    [name] = engine.trained
    torch.manual_seed(3)
    losses = []
    for number, batch in enumerate(rows):
        losses.append(engine.forward_backward({name: batch})[name].mean)
        if number + 1 < len(rows):
            engine.step({name: StepSettings(1e-3)})
    return losses, {key: p.grad for key, p in engine.parameters(name).items() if p.grad is not None}


def of_lengths(*lengths: int, shared: int = 1) -> list[Rendered]:
    """Rows that begin with the same `shared` tokens; the second half of the rest is trained."""
    random = np.random.default_rng(sum(lengths))
    rows = []
    for number, length in enumerate(lengths):
        ids = np.append(np.arange(5, 5 + shared), random.integers(3, 300, length - shared)).astype(np.int32)
        rows.append(Rendered(ids, np.arange(length) >= (shared + length) // 2, Origin("random", number + 1)))
    return rows


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "kind", "again"),
    [("llama", "plain", 1), ("llama", "dropout", 2), ("llama", "dora", 0), ("llama", "full", 0), ("gemma2", "plain", 0),
     ("phi3", "dropout", 0)],
)  # fmt: skip
def test_compiled_steps_equal_uncompiled_ones(family: str, kind: str, again: int) -> None:
    """Of 96 tokens each, to which nothing is filled up: what dropout draws depends on the length."""
    rows = [of_lengths(20, 30, 49), of_lengths(25, 26, 24, 25), of_lengths(49, 49)]
    plain, compiled = (
        engine_of(tiny_llama() if family == "llama" else make(family), kind, on=on, again=again) for on in (False, True)
    )
    expected, gradients = after_two_steps(plain[0], rows)
    losses, found = after_two_steps(compiled[0], rows)
    assert [one.problem for one in compiled[1]] == [None] * len(compiled[1])
    assert losses == pytest.approx(expected, rel=1e-5)
    assert gradients.keys() == found.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-3, atol=1e-4, msg=key)


@needs_compiler
@pytest.mark.slow
def test_a_length_is_compiled_once_whatever_documents_fill_it() -> None:
    engine, said = engine_of(tiny_llama(), "plain", on=True)
    after_two_steps(engine, [of_lengths(20, 30, 40), of_lengths(45, 46), of_lengths(30, 40, 45, shared=12)])
    [one] = said
    assert (one.tokens, one.problem) == (96, None)
    for error, bound in zip((one.loss_error, one.gradient_error), BOUNDS[torch.float32], strict=True):
        assert error is not None
        assert error < bound
    assert one.seconds == engine.compile_seconds > 0
    assert any((cache_folder() / "compiled").iterdir())  # for the next run
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    after_two_steps(engine, [of_lengths(31, 60)])
    engine.logprobs("one", random_rows(4))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before


@needs_compiler
@pytest.mark.slow
def test_compiled_layers_that_differ_are_dropped_and_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [of_lengths(20, 30, 49)] * 3
    expected, gradients = after_two_steps(engine_of(tiny_llama(), "dropout", on=False)[0], rows)
    monkeypatch.setitem(BOUNDS, torch.float32, (-1.0, -1.0))
    engine, said = engine_of(tiny_llama(), "dropout", on=True)
    losses, found = after_two_steps(engine, rows)
    [one] = said
    assert one.problem is not None
    assert one.problem.startswith("the loss differs by ")
    assert losses == expected
    assert all(torch.equal(found[key], gradient) for key, gradient in gradients.items())


def test_a_backward_pass_in_a_thread_of_its_own_forms_layers_again_with_their_adapter() -> None:
    """As autograd does on a GPU."""
    engine, _ = engine_of(tiny_llama(), "plain", on=False, again=2)
    [member] = [("one", 0, row) for row in random_rows(1)]
    loss, *_ = engine._plain._losses(engine._plain._pack([member]))
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    gradients = {key: p.grad for key, p in engine.parameters("one").items()}
    alone, _ = engine_of(tiny_llama(), "plain", on=False)
    alone.forward_backward({"one": [member[2]]})
    for key, parameter in alone.parameters("one").items():
        torch.testing.assert_close(gradients[key], parameter.grad, msg=key)
