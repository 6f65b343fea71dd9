"""A Python grader's process: what it may do, and what is refused or bounded."""

import ctypes
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from residency.errors import GraderError
from residency.graders.python_child import PythonChild, Reply


def run(body: str, timeout_seconds: float = 10.0) -> Reply:
    source = "def grade(sample, item):\n" + "\n".join(f"    {line}" for line in body.splitlines())
    with PythonChild(source, timeout_seconds=timeout_seconds) as child:
        return child.score({"output_text": "hi", "output_json": {"n": 2}}, {"reference": "ho"})


def has_landlock() -> bool:
    """As `landlock_create_ruleset` (system call 444) says."""
    return sys.platform == "linux" and ctypes.CDLL(None).syscall(444, None, 0, 1) >= 1


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    return "OPENAI_API_KEY"


def test_it_sees_the_answer_and_the_row() -> None:
    assert run("return (sample['output_text'] + item['reference'] == 'hiho') / sample['output_json']['n']") == (
        0.5,
        None,
    )


def test_installed_libraries_can_be_used() -> None:
    assert run("import numpy, re\nreturn numpy.mean([0, 1])") == (0.5, None)


def test_what_it_prints_does_not_disturb() -> None:
    assert run("print('x' * 10_000_000)\nimport sys\nsys.stderr.write('y')\nreturn 1") == (1.0, None)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return 'good'", "str, not a number"),
        ("return None", "NoneType, not a number"),
        ("return float('nan')", "nan"),
        ("return 10 ** 400", "OverflowError"),
        ("return item['x']", "KeyError"),
        ("x = 1\nraise ValueError('bad row')", "ValueError: bad row (line 3)"),
        ("raise SystemExit", "SystemExit"),
        ("raise ValueError('e' * 10_000_000)", "ValueError: eee"),
        ("import os\nos._exit(7)", "exit status 7"),
        ("return sample(1)", "TypeError"),
        ("def f(): return f()\nreturn f()", "RecursionError"),
    ],
)
def test_a_grader_that_fails_scores_0_with_a_short_reason(body: str, reason: str) -> None:
    score, error = run(body)
    assert score == 0
    assert reason in (error or "")
    assert len(error or "") < 700


@pytest.mark.parametrize(
    "body",
    [
        "import socket\nsocket.socket()",
        "import socket\nsocket.getaddrinfo('localhost', 80)",
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9')",
        "import os\nos.fork()",
        "import os\nos.system('true')",
        "import os\nos.posix_spawn('/bin/true', ['true'], {})",
        "import os\nos.execv('/bin/true', ['true'])",
        "import os\nos.kill(os.getppid(), 9)",
        "import subprocess\nsubprocess.run(['true'])",
        "import ctypes\nctypes.CDLL(None)",
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))",
        "import gc\ngc.get_objects()",
        "import os\nopen(f'/proc/{os.getppid()}/environ').read()",
        "import os\nos.open('/proc/self/mem', os.O_RDONLY)",
    ],
)
def test_network_and_processes_are_refused(body: str) -> None:
    score, error = run(body + "\nreturn 1")
    assert score == 0
    assert "PermissionError" in (error or "") or "URLError" in (error or "")


@pytest.mark.parametrize(
    "body",
    ["open({path!r}, 'w').write('x')", "open({path!r}, 'a')", "import os\nos.open({path!r}, os.O_CREAT)",
     "import os\nos.mkdir({path!r})", "import pathlib\npathlib.Path({path!r}).touch()",
     "import os\nos.remove({file!r})", "import os\nos.rename({file!r}, {path!r})", "open({file!r}, 'r+').write('x')"],
)  # fmt: skip
def test_files_cannot_be_written_or_removed(body: str, tmp_path: Path) -> None:
    file, path = tmp_path / "there", tmp_path / "new"
    file.write_text("untouched")
    score, error = run(body.format(path=str(path), file=str(file)) + "\nreturn 1")
    assert score == 0
    assert "PermissionError" in (error or "")
    assert file.read_text() == "untouched"
    assert not path.exists()


@pytest.mark.skipif(not has_landlock(), reason="this kernel has no Landlock")
@pytest.mark.parametrize(
    "body",
    [
        "open({path!r}).read()",
        "import os\nos.listdir({folder!r})",
        "import sqlite3\nsqlite3.connect('file:{path}?mode=ro', uri=True).execute('SELECT * FROM keys').fetchall()",
        "import sqlite3\nsqlite3.connect('file:{path}?immutable=1', uri=True).execute('SELECT * FROM keys').fetchall()",
    ],
)
def test_nobodys_files_can_be_read_not_even_by_a_library_that_asks_python_nothing(body: str, tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE keys AS SELECT 'sk-secret' AS secret")
    score, error = run(body.format(path=str(path), folder=str(tmp_path)) + "\nreturn 1")
    assert score == 0
    assert "Permission denied" in (error or "") or "unable to open database file" in (error or "")


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
def test_the_kernel_leaves_it_at_most_a_loopback_interface_where_it_can() -> None:
    interfaces = run("import socket\nreturn len(socket.if_nameindex())").score
    refused = run("import socket\nsocket.socket()\nreturn 1").error
    assert interfaces <= 1 or refused


def test_secrets_in_the_environment_are_not_there(secret: str) -> None:
    assert run(f"import os\nreturn {secret!r} in os.environ") == (0.0, None)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not hold the limit")
def test_memory_is_bounded() -> None:
    score, error = run("x = bytes(4 * 1024 ** 3)\nreturn 1")
    assert score == 0
    assert "MemoryError" in (error or "")


def test_a_loop_without_end_is_stopped() -> None:
    started = time.monotonic()
    score, error = run("while True: pass", timeout_seconds=0.5)
    assert score == 0
    assert "no answer within 0.5 s" in (error or "")
    assert time.monotonic() - started < 5


def test_three_endless_rows_in_a_row_end_the_grading() -> None:
    with PythonChild("def grade(sample, item):\n    while True: pass", timeout_seconds=0.2) as child:
        child.score({}, {})
        child.score({}, {})
        with pytest.raises(GraderError, match="3 rows in a row"):
            child.score({}, {})


def test_one_child_answers_many_rows_and_is_replaced_after_a_crash() -> None:
    source = "import os\ndef grade(sample, item):\n    return os._exit(1) if item['crash'] else os.getpid()"
    with PythonChild(source) as child:
        first, second = child.score({}, {"crash": False}), child.score({}, {"crash": False})
        crashed = child.score({}, {"crash": True})
        third = child.score({}, {"crash": False})
    assert first == second
    assert crashed.error
    assert third.error is None
    assert third.score != first.score


def test_a_large_row_passes_through() -> None:
    with PythonChild("def grade(sample, item):\n    return len(item['text'])") as child:
        assert child.score({}, {"text": "x" * 5_000_000}).score == 5_000_000


def test_a_source_that_fails_as_it_loads_says_so_for_every_row() -> None:
    with PythonChild("import no_such_module\ndef grade(sample, item):\n    return 1") as child:
        for _ in range(2):
            assert "ModuleNotFoundError" in (child.score({}, {}).error or "")


def test_nothing_is_left_running() -> None:
    with PythonChild("def grade(sample, item):\n    return 1") as child:
        child.score({}, {})
        process = child.process
    assert process is not None
    assert process.poll() is not None
