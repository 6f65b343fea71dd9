from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from residency.engine.checkpoint import (
    Checkpoints,
    Progress,
    find_damage,
    random_state,
    require_disk_space,
    set_random_state,
)
from residency.errors import ResourceError
from residency.records import RunFolder


def at(step: int, best: int | None = None) -> Progress:
    return Progress(step=step, micro_batch_tokens=64, best_step=best, recent_losses=(0.1 + 0.2, 1 / 3))


def tensors(folder: Path) -> None:
    (folder / "weights.safetensors").write_bytes(bytes(range(200)))


@pytest.fixture
def store(tmp_path: Path) -> Checkpoints:
    return Checkpoints(RunFolder(tmp_path), keep=2)


def names(store: Checkpoints) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def test_what_is_saved_comes_back(store: Checkpoints) -> None:
    path = store.save(at(5), tensors)
    assert store.newest() == (at(5), path)
    assert find_damage(path) is None


def test_only_the_newest_are_kept_by_number_not_by_name(store: Checkpoints) -> None:
    for step in (999_998, 999_999, 1_000_000):
        store.save(at(step), tensors)
    assert names(store) == ["step-1000000", "step-999999"]
    found = store.newest()
    assert found is not None
    assert found[0].step == 1_000_000


def test_the_best_before_stays_until_a_checkpoint_knows_the_new_one(store: Checkpoints) -> None:
    store.save_best(at(3), tensors)
    store.save(at(3, best=3), tensors)
    store.save_best(at(6), tensors)
    assert store.best(3) is not None
    store.save(at(6, best=6), tensors)
    assert names(store) == ["best-000006", "step-000003", "step-000006"]


def test_a_save_that_fails_leaves_nothing_and_harms_nothing(store: Checkpoints) -> None:
    store.save(at(1), tensors)

    def fail(folder: Path) -> None:
        tensors(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.save(at(2), fail)
    assert names(store) == ["step-000001"]


def truncate(path: Path) -> None:
    (path / "weights.safetensors").write_bytes(b"half")


def flip_a_bit(path: Path) -> None:
    (path / "progress.json").write_text((path / "progress.json").read_text().replace("64", "65"))


def flip_a_bit_of_the_manifest(path: Path) -> None:
    text = (path / "manifest.json").read_bytes()
    (path / "manifest.json").write_bytes(text[:20] + bytes([text[20] ^ 0x80]) + text[21:])


def lose(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def rewrite_manifest(content: object) -> Callable[[Path], None]:
    return lambda path: (path / "manifest.json").write_text(json.dumps(content)) and None


def empty(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    "damage",
    [truncate, flip_a_bit, flip_a_bit_of_the_manifest, empty, lose("manifest.json"), lose("weights.safetensors"),
     lose("progress.json"), rewrite_manifest([]), rewrite_manifest({}), rewrite_manifest(None)],
)  # fmt: skip
def test_a_damaged_checkpoint_is_said_and_the_one_before_is_used(
    store: Checkpoints, damage: Callable[[Path], None]
) -> None:
    store.save(at(1), tensors)
    damage(store.save(at(2), tensors))
    found = store.newest()
    assert found is not None
    assert found[0].step == 1
    [event] = store.run.events()
    assert (event.kind, event.level, event.data["checkpoint"]) == ("checkpoint_damaged", "warning", "step-000002")
    store.save(at(2), tensors)
    assert names(store) == ["damaged-step-000002", "step-000001", "step-000002"]


def test_where_all_are_damaged_there_is_none(store: Checkpoints) -> None:
    empty(store.save(at(1), tensors))
    assert store.newest() is None


def test_an_unfinished_folder_is_not_a_checkpoint_and_goes_with_the_next_save(store: Checkpoints) -> None:
    (store.folder / ".step-000006.writing").mkdir(parents=True)
    assert store.newest() is None
    store.save(at(7), tensors)
    assert names(store) == ["step-000007"]


def test_random_numbers_go_on_where_they_were() -> None:
    torch.manual_seed(3)
    torch.rand(5)
    state = random_state()
    expected = torch.rand(5)
    torch.manual_seed(99)
    set_random_state(state)
    assert torch.equal(torch.rand(5), expected)


def test_a_disk_too_small_is_refused_with_both_numbers(tmp_path: Path) -> None:
    require_disk_space(tmp_path, 1)
    with pytest.raises(ResourceError, match=r"1000000\.0 GB") as caught:
        require_disk_space(tmp_path, 10**15)
    assert caught.value.code == "disk_full"
