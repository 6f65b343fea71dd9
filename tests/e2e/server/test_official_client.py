"""OpenAI's own tests of its Python client, unchanged, against `residency serve --conformance-fixtures`.

They lie in the client's source package, which pip fetches; its digest is pinned here. Nothing of it is kept in this
repository: it is unpacked, with an environment of its own, in the user's cache.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server.fetched import CACHE, made_once, run, source_package
from tests.e2e.server.serving import serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

DIGESTS = {
    "3.54.0": "2e393e63f8a38be6452806f9ef0b6534fecd6d41ab3b2165180dfce3599249cd",
    "1.109.1": "d173ed8dbca665892a6db099b4a2dfac624f94d20a93f46eb0b56aae940ed869",
}
NEEDED = (
    "pytest", "pytest-asyncio", "pytest-xdist", "rich", "inline-snapshot", "dirty-equals", "trio", "respx",
    "nest_asyncio", "time-machine", "httpx_aiohttp", "hatchling", "hatch-fancy-pypi-readme",
)  # fmt: skip
RESOURCES = "tests/api_resources"
CORE = (
    "test_files.py", "test_uploads.py", "uploads", "fine_tuning", "test_models.py", "chat/test_completions.py",
    "test_completions.py",
)  # fmt: skip


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve(tmp_path_factory.mktemp("server") / "home", "--conformance-fixtures") as server:
        yield server.url()


def own_tests_of(version: str) -> tuple[Path, Path]:
    """The unpacked source package and a Python that has this version installed; made once."""

    def make(folder: Path) -> None:
        run(sys.executable, "-m", "venv", str(folder / "venv"))
        python = str(folder / "venv" / "bin" / "python")
        run(python, "-m", "pip", "install", "--quiet", f"openai[aiohttp]=={version}", *NEEDED)
        source_package(folder, "openai", version, DIGESTS[version])

    folder = made_once(CACHE / f"openai-{version}", make)
    return folder / f"openai-{version}", folder / "venv" / "bin" / "python"


def outcome(version: str, url: str, *words: str) -> dict[str, int]:
    source, python = own_tests_of(version)
    done = subprocess.run(
        [str(python), "-m", "pytest", "-W", "ignore", "-p", "no:cacheprovider", "-n", "2", "-q", *words],
        cwd=source, env=os.environ | {"TEST_API_BASE_URL": url}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    last = done.stdout.strip().splitlines()[-1]
    print("\n".join(line for line in done.stdout.splitlines() if line.startswith("FAILED")), last)
    return {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}


@pytest.mark.parametrize(("version", "passed"), [("3.54.0", 717), ("1.109.1", 697)])
def test_the_official_clients_own_tests_pass(version: str, passed: int, url: str) -> None:
    """Three are skipped by the client itself: aiohttp with a mock."""
    paths = [f"{RESOURCES}/{name}" for name in CORE]
    assert outcome(version, url, *paths) == {"passed": passed, "skipped": 3}


def test_its_tests_of_batches_evals_and_stored_chats_pass_too(url: str) -> None:
    paths = ("test_batches.py", "evals", "chat/completions/test_messages.py")
    found = outcome("3.54.0", url, *(f"{RESOURCES}/{name}" for name in paths),
                    "tests/lib/test_fine_tuning_positional_arguments.py")  # fmt: skip
    assert found == {"passed": 310}


def test_its_tests_of_evals_pass_where_their_requests_are_valid(url: str) -> None:
    """Those that make an eval send a message of the role `role`, which OpenAI's own schema does not have."""
    assert outcome("3.54.0", url, f"{RESOURCES}/test_evals.py", "-k", "not create") == {"passed": 85}
