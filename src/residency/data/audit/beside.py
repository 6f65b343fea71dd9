"""Tasks that a second process works through while the caller does something else.

The second process is an interpreter of its own that reads tasks on its standard input and writes results on its
standard output. It imports nothing of the caller's script, so this works from a script without a main guard, from
standard input, from a notebook and in a child of the server, where `multiprocessing` would run the script again or
refuse. It ends when its input does.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

Task = tuple[Callable[[Any], Any], Any]
"""A function of a module, and what it is given."""
Waiting = deque[tuple[int, Task]]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

log = logging.getLogger(__name__)


@contextmanager
def beside(tasks: Sequence[Task], *, worth_it: bool) -> Iterator[Callable[[], list[Any]]]:
    """Yields the function that gives the results, in the order of the tasks.

    Where it is `worth_it` and there is a second core, another process does the tasks from the first on until they are
    asked for; then both do what is left. A task that fails there is done again here, and raises its error here.
    """
    process = start() if worth_it and cores() > 1 else None
    if process is None:
        yield lambda: [function(given) for function, given in tasks]
        return
    waiting: Waiting = deque(enumerate(tasks))
    found: dict[int, Any] = {}

    def results() -> list[Any]:
        work_off(waiting, found)
        if not fed.result():
            log.warning("the second process has ended too early: one does the rest, and takes longer")
            work_off(waiting, found)
        return [found[number] for number in range(len(tasks))]

    with ThreadPoolExecutor(1) as thread:
        fed = thread.submit(feed, process, waiting, found)
        try:
            yield results
        finally:
            waiting.clear()
            process.kill()
            wait([fed])
            process.communicate()


def work_off(waiting: Waiting, found: dict[int, Any]) -> None:
    """Does what waits, the last first."""
    while task := taken(waiting.pop):
        number, (function, given) = task
        found[number] = function(given)


def feed(process: subprocess.Popen[bytes], waiting: Waiting, found: dict[int, Any]) -> bool:
    """Has the process do what waits, the first first. False if it ends before: the task at hand goes back."""
    while task := taken(waiting.popleft):
        try:
            found[task[0]] = ask(process, task[1])
        except Exception:  # whatever kept it from answering
            waiting.appendleft(task)
            return False
    return True


def taken(pop: Callable[[], tuple[int, Task]]) -> tuple[int, Task] | None:
    """The two sides take from one queue; the other may have had the last."""
    try:
        return pop()
    except IndexError:
        return None


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start() -> subprocess.Popen[bytes] | None:
    paths = [path for path in sys.path if isinstance(path, str)]
    program = f"import sys; sys.path[:] = {paths!r}; from {__name__} import serve; serve()"
    try:
        return subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=os.environ | ONE_THREAD,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        log.warning("a second process cannot be started (%s): one does all, and takes longer", error)
        return None


def ask(process: subprocess.Popen[bytes], task: Task) -> Any:
    assert process.stdin
    assert process.stdout
    process.stdin.write(pickle.dumps(task))
    process.stdin.flush()
    return pickle.load(process.stdout)


def serve() -> None:
    """In the second process: a result for each task, until there are no more. The first error ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    results, sys.stdout = sys.stdout.buffer, sys.stderr
    while True:
        try:
            function, given = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(function(given), results)
        results.flush()
