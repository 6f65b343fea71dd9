"""On a CPU, passes beside one another: each in a thread of its own, on its own share of the cores.

Most operations of a small model are too short to be shared out between cores, and two threads of one operation wait for
each other after each. Whole passes need not wait: they meet where their gradients are added, in a fixed order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")
MOST = 4
"""Python's lock lets few passes issue their operations at once; further cores serve the operations."""
_here = threading.local()


def lanes(items: int) -> int:
    """How many of so many passes may run beside one another, with as many threads as torch may use."""
    return max(1, min(MOST, torch.get_num_threads(), items))


def is_beside() -> bool:
    """Whether this thread runs one of several passes."""
    return getattr(_here, "beside", False)


def beside(work: Callable[[T], R], items: Sequence[T], count: int) -> list[R]:
    """`work` on each item, `count` at once; the results in the items' order. All have ended when one has failed."""
    if count == 1:
        return [work(item) for item in items]
    with _pool(count) as executor:
        futures = [executor.submit(work, item) for item in items]
        _settle(futures)
    return [future.result() for future in futures]


def streams(work: Callable[[T], Iterator[R]], items: Sequence[T]) -> Generator[R, None, None]:
    """What `work` yields for each item, as it comes, all beside one another. Whoever stops listening ends the work."""
    if len(items) <= 1:
        for item in items:
            yield from work(item)
        return
    told: SimpleQueue[R | None] = SimpleQueue()
    unheard = threading.Event()

    def tell(item: T) -> None:
        try:
            for one in work(item):
                told.put(one)
                if unheard.is_set():
                    return
        finally:
            told.put(None)

    futures: list[Future[None]] = []
    with _pool(len(items)) as executor:
        try:
            for item in items:
                futures.append(executor.submit(tell, item))
            ended = 0
            while ended < len(items):
                one = told.get()
                if one is None:
                    ended += 1
                else:
                    yield one
        finally:
            unheard.set()
            _settle(futures)
    for future in futures:
        future.result()


def _settle(futures: Sequence[Future[Any]]) -> None:
    """Waits for the work that has begun, whatever interrupts, and raises that afterwards.

    Python takes a thread for ended when the wait for it is interrupted, and aborts where one is still inside torch at
    the end of the process.
    """
    interrupted: KeyboardInterrupt | None = None
    while left := [future for future in futures if not future.done()]:
        try:
            wait(left)
        except KeyboardInterrupt as error:
            interrupted = error
            for future in left:
                future.cancel()  # only what has not begun
    if interrupted:
        raise interrupted


@contextmanager
def _pool(count: int) -> Iterator[ThreadPoolExecutor]:
    """`count` threads that share torch's threads between them, and take or leave gradients as this one does."""
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()

    def prepare() -> None:
        _here.beside = True
        torch.set_num_threads(max(1, threads // count))
        torch.set_grad_enabled(gradients)

    try:
        with ThreadPoolExecutor(count, initializer=prepare) as executor:
            try:
                yield executor
            except KeyboardInterrupt:  # perhaps while a thread was being started, which may begin at any time
                executor.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(threads)
