"""What tests fetch from a package registry: once, into the user's cache, and never anything but what is pinned."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from residency.models.starter import cache_folder

CACHE = cache_folder() / "tests"
"""Read when this module is: a session's tests are given an empty cache later."""


def run(*command: str) -> None:
    """Skips the test where this machine cannot reach the registry."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{' '.join(command[:4])} ... does not work here: {done.stderr.strip()[-300:]}")


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder as `make` filled it; one that was left half made is made anew."""
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make(folder)
        (folder / "complete").touch()
    return folder


def require(digest: str, archive: Path, expected: str) -> None:
    assert digest == expected, f"{archive.name} is not the one we know: {digest} instead of {expected}"


def npm_package(name: str, version: str, integrity: str) -> Path:
    """A folder `node_modules` that holds this package alone; nothing of it is run when it is installed."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not on this machine")

    def make(folder: Path) -> None:
        run(npm, "pack", f"{name}@{version}", "--pack-destination", str(folder))
        (archive,) = folder.glob("*.tgz")
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        require(f"sha512-{digest}", archive, integrity)
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        (folder / "node_modules").mkdir()
        (folder / "package").rename(folder / "node_modules" / name)

    return made_once(CACHE / f"npm-{name}-{version}", make) / "node_modules"


def wheel(name: str, version: str, sha256: str) -> Path:
    """A folder with what the wheel holds; nothing is installed."""

    def make(folder: Path) -> None:
        pip_download(f"{name}=={version}", folder, "--only-binary", ":all:")
        (archive,) = folder.glob("*.whl")
        require(hashlib.sha256(archive.read_bytes()).hexdigest(), archive, sha256)
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)

    return made_once(CACHE / f"{name}-{version}", make)


def source_package(folder: Path, name: str, version: str, sha256: str) -> Path:
    """Unpacked below `folder`."""
    pip_download(f"{name}=={version}", folder, "--no-binary", name)
    archive = folder / f"{name}-{version}.tar.gz"
    require(hashlib.sha256(archive.read_bytes()).hexdigest(), archive, sha256)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / f"{name}-{version}"


def pip_download(requirement: str, folder: Path, *options: str) -> None:
    run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *options, "--dest", str(folder), requirement)
