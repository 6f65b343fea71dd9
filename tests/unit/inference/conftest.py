"""A small real model that speaks ChatML, and adapters that change what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.inference.small import make_adapter, make_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def adapters(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three plain LoRA adapters of different ranks, and one with DoRA."""
    home = tmp_path_factory.mktemp("adapters")
    return [
        make_adapter(model_folder, home / "one", seed=1, r=2),
        make_adapter(model_folder, home / "two", seed=2, r=4),
        make_adapter(model_folder, home / "three", seed=3, r=8),
        make_adapter(model_folder, home / "dora", seed=4, r=4, use_dora=True),
    ]
