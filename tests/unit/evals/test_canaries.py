"""Exposure: about 1 bit for a model that learned nothing, and the more the oftener a secret was seen."""

from __future__ import annotations

import numpy as np
import pytest

from residency.data.render import renderer_for
from residency.engine.engine import FULL, Engine
from residency.engine.optim import StepSettings
from residency.evals.canaries import canary_rows, exposure, exposures
from tests.conftest import tiny_llama
from tests.e2e.tiny import make_tokenizer


def test_exposure_is_the_rank_in_bits() -> None:
    others = np.random.default_rng(0).normal(20.0, 2.0, 2000).tolist()
    assert exposure(20.0, others) == pytest.approx(1.0, abs=0.1)
    assert exposure(16.0, others) == pytest.approx(5.45, abs=0.3)  # 2.3 % are below
    assert exposure(0.0, others) == pytest.approx(19.93, abs=0.01)  # no other among a million


def test_exposure_rises_with_the_copies_of_a_secret() -> None:
    renderer = renderer_for(make_tokenizer())
    found = []
    for steps in (0, 4, 16):
        engine = Engine(tiny_llama(vocab_size=len(renderer.tokenizer)))
        engine.train_all_weights()
        for _ in range(steps):
            engine.forward_backward({FULL: canary_rows(renderer, 3, seed=0, chat=True)})
            engine.step({FULL: StepSettings(3e-3)})
        found.append(float(np.mean(exposures(engine, None, renderer, 3, seed=0, chat=True))))
    assert found == sorted(found)
    assert found[0] < 4
    assert found[-1] > found[0] + 2
