"""On a CPU an arm among others is, to the bit, what it would be alone: at any rate, over any number of steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from residency.config.model import Train
from residency.engine.checkpoint import Progress, random_state
from residency.engine.engine import Engine
from residency.methods import sft
from residency.records import Metric, RunFolder
from residency.search.arms import Arm, add_to_sums, cool_down, take_means, train_step
from tests.conftest import rows_with_a_shared_start, tiny_llama

STEPS = 20
RATES = (1e-2, 3e-2, 1e-1)
ROWS = rows_with_a_shared_start(24)


def settings(rate: float) -> Train[object]:
    return Train.model_validate({
        "epochs": 100.0, "max_steps": STEPS, "batch_size": 4, "micro_batch_tokens": 100, "learning_rate": rate,
        "eval_every_steps": 100, "save_every_steps": 100, "patience": None,
    })  # fmt: skip


def engine_and_arms(rates: tuple[float, ...], dropout: float, folder: Path) -> tuple[Engine, list[Arm]]:
    """Each arm begins as the run alone does: with the random numbers that are left when its adapter was made."""
    engine, arms = Engine(tiny_llama(), micro_batch_tokens=100), []
    for number, rate in enumerate(rates):
        name = f"arm-{number}"
        engine.add_adapter(name, LoraConfig(r=4, target_modules="all-linear", lora_dropout=dropout), seed=3)
        record = RunFolder(folder / name)
        record.path.mkdir(parents=True)
        state = Progress(micro_batch_tokens=100, rng=random_state())
        arms.append(Arm(name, settings(rate), ROWS, record, state))
    return engine, arms


def measured(run: RunFolder) -> list[tuple[float, float | None]]:
    lines: list[Metric] = [metric for metric in run.metrics() if metric.split == "train"]
    return [(metric.loss, metric.grad_norm) for metric in lines]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_an_arm_among_others_is_the_run_alone(dropout: float, tmp_path: Path) -> None:
    engine, arms = engine_and_arms(RATES, dropout, tmp_path / "together")
    for step in range(STEPS):
        train_step(engine, arms)
        if step == 9:
            before = {arm.name: engine.snapshot(arm.name) for arm in arms}
            cool_down(engine, arms)
            engine.put_back(before)
    for arm in arms:
        alone, [same] = engine_and_arms((arm.rate,), dropout, tmp_path / f"alone-{arm.rate:g}")
        sft.train(alone, same.name, ROWS, [], same.settings, same.record)
        assert measured(arm.record) == measured(same.record)
        assert len(measured(same.record)) == STEPS


def test_arms_can_be_looked_at_by_the_mean_of_their_last_weights(tmp_path: Path) -> None:
    engine, arms = engine_and_arms(RATES, 0.0, tmp_path)
    seen: list[dict[str, torch.Tensor]] = []
    for _ in range(3):
        train_step(engine, arms)
        add_to_sums(engine, arms, anew=not seen)
        seen.append({name: p.detach().clone() for arm in arms for name, p in engine.parameters(arm.name).items()})
    before = {arm.name: engine.snapshot(arm.name) for arm in arms}
    take_means(engine, arms, len(seen))
    for arm in arms:
        for name, found in engine.parameters(arm.name).items():
            torch.testing.assert_close(found.detach(), torch.stack([one[name] for one in seen]).mean(dim=0))
    engine.put_back(before)
    assert all(torch.equal(p, seen[-1][name]) for arm in arms for name, p in engine.parameters(arm.name).items())
