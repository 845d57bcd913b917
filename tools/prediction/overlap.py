"""Reading the next pictures and writing the last results while the network runs, both in the order of the pictures."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
AHEAD, BEHIND = 2, 4  # pictures that wait in memory


def read_ahead(items: Iterable[T], read: Callable[[T], R]) -> Iterator[R]:
    """Yield read(item) for each item, in order. A thread reads AHEAD items in advance. Raises the errors of `read`."""
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def written_behind() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Context with a function that runs a call in a thread, later and in order.

    At most BEHIND calls wait. The context ends after the last call. Raises the first error of a call; then the calls
    after it do not run.
    """
    waiting: deque[Future[None]] = deque()
    failed = False

    def run(call: Callable[[], None]) -> None:
        nonlocal failed
        if failed:
            return
        try:
            call()
        except BaseException:
            failed = True
            raise

    def later(call: Callable[[], None]) -> None:
        waiting.append(pool.submit(run, call))
        while len(waiting) > BEHIND:
            waiting.popleft().result()

    with ThreadPoolExecutor(1) as pool:
        yield later
        for future in waiting:
            future.result()
