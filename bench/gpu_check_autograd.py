"""Checks on a GPU of passes that autograd runs, compiled, formed again or offloaded; ends in 'N passed, N failed'."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent))
from gpu_check import FUSED, PLAIN, TOKENS, error, main, need
from gpu_models import engine_with_adapters, mix_b, random_model

from residency.engine.speed import Speed
from residency.models.nf4 import hold_in_nf4

COMPILED = Speed(fused=False, compile=True)


def gradients(model: Any, how: Speed, *, dropout: float = 0.0, passes: int = 1) -> tuple[float, torch.Tensor]:
    """The last loss, and the adapter's gradient of some passes as one vector; what is to be compiled must be."""
    engine, [name] = engine_with_adapters(model, 1, how, dropout=dropout, micro_batch_tokens=TOKENS)
    rows = next(mix_b(TOKENS))
    torch.manual_seed(1)
    for _ in range(passes):
        loss = engine.forward_backward({name: rows})[name].mean
    compiled = engine._plain.compiled
    assert (compiled is not None and not compiled.dropped and compiled.seconds > 0) == how.compile, engine.reasons
    if engine._fast is not None:
        engine._fast.decoder.adapters.collect(name)
    return loss, torch.cat([p.grad.double().flatten() for p in engine._trained[name].parameters.values()])


def need_same(found: tuple[float, torch.Tensor], expected: tuple[float, torch.Tensor]) -> None:
    cosine = float(F.cosine_similarity(found[1], expected[1], 0))
    print(f"    loss {found[0]:.5f} ({expected[0]:.5f}), cosine {cosine:.5f}")
    need("loss", abs(found[0] - expected[0]), 1e-3)
    assert cosine > 0.999, f"cosine {cosine:.5f}"


def check_compiled_layers_of_llama() -> None:
    need_same(gradients(random_model("check"), COMPILED), gradients(random_model("check").float(), PLAIN))


def check_compiled_layers_of_gemma_with_its_sliding_windows() -> None:
    need_same(gradients(random_model("check-gemma3"), COMPILED), gradients(random_model("check-gemma3").float(), PLAIN))


def check_compiled_layers_of_phi_with_its_own_linears() -> None:
    need_same(gradients(random_model("check-phi3"), COMPILED), gradients(random_model("check-phi3").float(), PLAIN))


def check_compiled_layers_in_nf4() -> None:
    held = [random_model("check"), random_model("check")]
    for model in held:
        hold_in_nf4(model)
    need_same(gradients(held[0], COMPILED), gradients(held[1], PLAIN))


def check_compiled_layers_formed_again_with_dropout() -> None:
    """What dropout draws depends on the precision and the length of a pass; against the same layers uncompiled the
    engine itself has compared them, with the same draws."""
    again = replace(COMPILED, layers_formed_again=2)
    found, expected = (gradients(random_model("check"), how, dropout=0.1) for how in (again, COMPILED))
    need_same(found, expected)


def check_layers_formed_again() -> None:
    """The backward pass runs in another thread."""
    again = replace(PLAIN, layers_formed_again=4)
    need_same(gradients(random_model("check"), again), gradients(random_model("check"), PLAIN))


def check_what_waits_in_the_hosts_memory_comes_back() -> None:
    """As near as two runs without it are; the second pass meets memory that the first has used."""
    for path in (FUSED, PLAIN):
        again = replace(path, layers_formed_again=4)
        here, twice = (gradients(random_model("check"), again, passes=2) for _ in range(2))
        there = gradients(random_model("check"), replace(again, offload=True), passes=2)
        need("loss", abs(there[0] - here[0]), 2 * abs(twice[0] - here[0]) + 1e-6)
        need("gradients", error(there[1], here[1]), 2 * error(twice[1], here[1]) + 1e-6)


if __name__ == "__main__":
    sys.exit(main(globals()))
