"""The scripts of examples/openai-client, whose authors know OpenAI alone; only the address is ours."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from residency.models.starter import STARTER_ID
from tests.e2e.server.fetched import npm_package
from tests.e2e.server.serving import serve
from tests.e2e.tiny import make_model_folder, rows, write_rows

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[3] / "examples"
SCRIPTS = EXAMPLES / "openai-client"
NODE_CLIENT = (
    "6.49.0",
    "sha512-aYCc0C6L864eR6WSYIwQGyXriw/nIyZx0ObvhzOEVuk0zoBDpynjSbrionWI7q65B5H8jJX0DXR9snEzM6bfPg==",
)
"""The newest that runs on Node 20."""

Command = Callable[[Path, Path, int, int, float], list[str]]


def python(train: Path, test: Path, epochs: int, batch_size: int, multiplier: float) -> list[str]:
    options = {"epochs": epochs, "batch-size": batch_size, "learning-rate-multiplier": multiplier}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, str(SCRIPTS / "fine_tune.py"), str(train), str(test), *words]


def node(train: Path, test: Path, epochs: int, batch_size: int, multiplier: float) -> list[str]:
    """A script finds its packages beside itself, so it is copied to where they are."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not on this machine")
    folder = train.parent
    (folder / "node_modules").symlink_to(npm_package("openai", *NODE_CLIENT))
    script = shutil.copy(SCRIPTS / "fine_tune.mjs", folder)
    return [program, str(script), *map(str, (train, test, epochs, batch_size, multiplier))]


def said_by(command: list[str], url: str) -> str:
    environment = os.environ | {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "any"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr, sep="\n")
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "nothing is out of order"
    return done.stdout


class Outcome:
    """What a script has printed, in parts."""

    def __init__(self, said: str) -> None:
        self.messages = said.splitlines()
        self.model = self.one(r"job \S+ has succeeded after \d+ tokens: (\S+)")
        self.checkpoints = re.findall(r"^checkpoint (\S+) at step (\d+), loss \d+\.\d+$", said, re.MULTILINE)
        self.csv_steps, self.first_loss, self.last_loss = map(
            float, self.all(r"results of (\d+) steps: training loss from (\S+) to (\S+)")
        )
        self.answer, self.streamed, self.wanted = (
            self.one(f"{word} (.*)") for word in ("answer", "streamed", "wanted")
        )
        self.right = {name: (int(right), int(total)) for name, right, total in re.findall(
            r"^eval (\S+): completed, (\d+) of (\d+) right, 0 errors$", said, re.MULTILINE)}  # fmt: skip

    def all(self, pattern: str) -> tuple[str, ...]:
        (found,) = [match.groups() for line in self.messages if (match := re.fullmatch(pattern, line))]
        return tuple(found)

    def one(self, pattern: str) -> str:
        return self.all(pattern)[0]


def assert_as_openai_does_it(outcome: Outcome, *, steps: int) -> None:
    assert outcome.messages[0].startswith("Created fine-tuning job: ftjob-")
    assert [line for line in outcome.messages if line.startswith(f"Step {steps}/{steps}: training loss=")]
    assert "The job has successfully completed" in outcome.messages
    assert re.fullmatch(r"ft:gpt-4o-mini-2024-07-18:residency:demo:\w{8}", outcome.model)
    assert outcome.checkpoints[0] == (outcome.model, str(steps))
    assert outcome.csv_steps == steps
    assert outcome.last_loss < outcome.first_loss / 4
    assert outcome.streamed == outcome.answer


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("command", [python, node])
def test_a_script_written_for_openai_runs_unchanged(command: Command, tmp_path: Path) -> None:
    train = write_rows(tmp_path / "train.jsonl", rows(30))
    test = write_rows(tmp_path / "test.jsonl", rows(12, start=100))
    alias = f"gpt-4o-mini*={make_model_folder(tmp_path / 'model')}"
    with serve(tmp_path / "home", "--alias", alias) as server:
        outcome = Outcome(said_by(command(train, test, 20, 2, 1.0), server.url()))
    assert_as_openai_does_it(outcome, steps=300)
    assert [int(step) for _, step in outcome.checkpoints] == [300, 285, 270]
    assert outcome.answer == outcome.wanted
    assert outcome.right == {"gpt-4o-mini-2024-07-18": (0, 12), outcome.model: (12, 12)}


@pytest.fixture(scope="module")
def smart_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's sentences."""
    pytest.importorskip("hassil")
    folder = tmp_path_factory.mktemp("smart-home")
    recipe = str(EXAMPLES / "smart-home" / "make_data.py")
    subprocess.run([sys.executable, recipe, "--out", str(folder)], check=True, stdout=subprocess.DEVNULL)
    return folder


def some_lines(source: Path, target: Path, count: int) -> Path:
    target.write_text("".join(source.read_text().splitlines(keepends=True)[:count]))
    return target


@pytest.mark.starter
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", [python, node])
def test_the_starter_model_learns_the_demo_through_the_official_clients(
    command: Command, smart_home: Path, tmp_path: Path
) -> None:
    """All rows once, 8 at a time at about 2e-3; asked are sentences that it has not seen."""
    train = smart_home / "train.jsonl"
    test = some_lines(smart_home / "test.jsonl", tmp_path / "test.jsonl", 40)
    with serve(tmp_path / "home", "--alias", f"gpt-4o-mini*={STARTER_ID}") as server:
        outcome = Outcome(said_by(command(train, test, 1, 8, 4.0), server.url()))
    assert_as_openai_does_it(outcome, steps=-(-len(train.read_text().splitlines()) // 8))
    assert outcome.answer == outcome.wanted
    untuned, tuned = outcome.right["gpt-4o-mini-2024-07-18"], outcome.right[outcome.model]
    assert untuned == (0, 40)
    assert tuned[0] >= 34, "it answers right, to the letter"
