"""A learning-rate search is the first half of the run its winner alone would have made, whatever interrupts it."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from residency import pipeline
from residency.config.model import RunConfig
from residency.errors import ConfigError
from residency.records import RunFolder, SearchResult
from residency.search import halving, race
from tests.integration.process import FULL, configure, finish, kinds, start, train, wait_for

STEPS = 30
LORA = {"kind": "lora", "rank": 4}
DROPOUT = LORA | {"dropout": 0.2}


def config(folder: Path, adapter: dict[str, Any] = LORA, **settings: Any) -> RunConfig:
    return configure(folder, adapter, **{"learning_rate": "search", "max_steps": STEPS} | settings)


def result(run: RunFolder) -> SearchResult:
    return run.read("search/search.json", SearchResult)


def save_at_every_step() -> None:
    halving.SAVE_EVERY_SECONDS = 0.0


def steps_in_all(run: RunFolder) -> int:
    return sum(file.read_bytes().count(b"\n") for file in run.path.glob("search/*/metrics.jsonl"))


def losses(run: RunFolder, split: str = "train") -> list[float]:
    return [metric.loss for metric in run.metrics() if metric.split == split]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(LORA, id="side by side"),
        pytest.param(DROPOUT, id="side by side with dropout", marks=pytest.mark.slow),
        pytest.param(FULL, id="one after another", marks=pytest.mark.slow),
    ],
)
def adapter(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def searched(adapter: dict[str, Any], folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    runs = tmp_path_factory.mktemp("searched")
    assert train(config(folder, adapter), runs) == 0
    return RunFolder(runs / "run")


def test_the_winner_is_the_run_that_its_rate_alone_would_have_made(
    searched: RunFolder, adapter: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    found = result(searched)
    assert train(config(folder, adapter, learning_rate=found.chosen), tmp_path) == 0
    alone = RunFolder(tmp_path / "run")
    for split in ("train", "replay"):
        assert losses(searched, split) == losses(alone, split)
    assert bool(losses(searched, "replay")) == (adapter is not FULL)
    for file in ("row_losses.f32", f"checkpoints/step-{STEPS:06d}/optimizer.safetensors"):
        assert (searched / file).read_bytes() == (alone / file).read_bytes()


def test_every_candidate_says_what_it_saw_and_why_it_was_given_up(searched: RunFolder) -> None:
    found = result(searched)
    assert len(found.candidates) == 8
    assert [one.fate for one in found.candidates].count("chosen") == 1
    others = [one for one in found.candidates if one.fate != "chosen"]
    assert all(one.steps < STEPS for one in others)
    assert found.other_tokens > sum(one.tokens for one in others) > 0
    for one in found.candidates:
        if one.steps:
            metrics = RunFolder(searched / "search" / one.name).metrics()
            assert metrics[-1].step == one.steps
    assert {"range_probe", "search_cut", "search", "few_held_out"} <= set(kinds(searched))
    assert not (searched / "search" / "checkpoints").exists()


def test_of_all_candidates_the_best_at_the_first_mark_go_on(searched: RunFolder) -> None:
    (first, left), (second, _) = halving.marks(STEPS)
    there = [one for one in result(searched).candidates if first in one.scores]
    losses_there = {one.name: one.scores[first] or math.inf for one in there}
    assert len(losses_there) > left
    best = sorted(losses_there, key=lambda name: losses_there[name])[:left]
    assert {one.name for one in there if second in one.scores} == set(best)


def test_a_search_that_is_killed_goes_on_with_the_same_survivors(
    searched: RunFolder, adapter: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    for kills, steps in enumerate((5, 40, 68) if adapter is FULL else (20, 66, 74)):
        process = start(config(folder, adapter), tmp_path, resume=kills > 0, before=save_at_every_step)
        wait_for(lambda: steps_in_all(run) >= steps, process)  # noqa: B023
        process.kill()
        finish(process)
    assert train(config(folder, adapter), tmp_path, resume=True) == 0
    assert [one.model_dump() for one in result(run).candidates] == [
        one.model_dump() for one in result(searched).candidates
    ]
    assert losses(run) == losses(searched)
    weights = "model/model.safetensors" if adapter is FULL else "adapter/adapter_model.safetensors"
    assert (run / weights).read_bytes() == (searched / weights).read_bytes()
    assert "search_resumed" in kinds(run)


def test_a_search_that_was_finished_is_not_made_again(
    searched: RunFolder, adapter: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    run = RunFolder(shutil.copytree(searched.path, tmp_path / "run"))
    (run / "summary.json").unlink()
    said = kinds(run).count("search")
    assert train(config(folder, adapter), tmp_path, resume=True) == 0
    assert kinds(run).count("search") == said
    assert losses(run) == losses(searched)


def test_without_held_out_rows_there_is_nothing_to_choose_by(folder: Path, tmp_path: Path) -> None:
    settings = config(folder).model_dump()
    settings["data"]["eval"] = None
    with pytest.raises(ConfigError, match="held-out rows") as caught:
        pipeline.run(RunConfig.model_validate(settings), tmp_path)
    assert caught.value.param == "data.eval"


@pytest.mark.slow
def test_candidates_are_put_back_from_disk_where_memory_has_no_room(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = pipeline.run(config(folder, FULL), tmp_path / "memory")
    monkeypatch.setattr(race, "available_bytes", lambda device: 0)
    on_disk = pipeline.run(config(folder, FULL), tmp_path / "disk")
    assert [one.scores for one in result(on_disk).candidates] == [one.scores for one in result(in_memory).candidates]
    assert losses(on_disk) == losses(in_memory)
