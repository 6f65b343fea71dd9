"""Imports go one way, and what needs no tensors starts without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "residency"

LAYERS = [
    {"errors"},
    {"durable", "progress", "wording"},
    {"config"},
    {"records"},
    {"run_folders"},
    {"data"},
    {"importers"},
    {"graders"},
    {"models"},
    {"engine"},
    {"evals"},
    {"methods"},
    {"stages"},
    {"advisor"},
    {"exports"},
    {"search"},
    {"pipeline"},
    {"inference"},
    {"server"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_layers(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom) and node.module == "residency":
            names = [f"residency.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("residency.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_its_own_layer_or_below(path: Path) -> None:
    own = layer(path)
    assert own in LEVEL, f"{own} has no place in LAYERS"
    above = {name for name in imported_layers(path) if LEVEL[name] >= LEVEL[own] and name != own}
    assert not above, f"{path.relative_to(PACKAGE)} must not import {above}"


@pytest.mark.parametrize(
    "module",
    [
        "residency",
        "residency.config.load",
        "residency.config.resolve",
        "residency.data.validate",
        "residency.graders.score",
        "residency.importers.read",
        "residency.records",
        "residency.server.api.app",
        "residency.server.conformance",
        "residency.server.evaluation",
        "residency.server.worker",
        "residency.server.supervise",
        "residency.cli",
    ],
)
def test_these_import_without_torch(module: str) -> None:
    program = f"import sys, {module}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert result.stdout.strip() == "False", result.stderr or f"{module} imports torch"
