"""The life of a loader's workers: it ends with the loop that reads from them, or with the trainer, however these end.

A worker ignores the signals that the trainer saves at, so that one to the whole process group leaves it at work. But
`multiprocessing` ends its processes by SIGTERM, and waits for ever for one that ignores it. So a worker has an owner,
and a thread of its own that listens for the owner's word.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from detector.engine.interrupt import SIGNALS

GRACE_S = 1.0  # for a worker to end its batch, before it ends whatever it does
LOOK_EVERY_S = 1.0  # how often a worker looks whether the trainer is there

T = TypeVar("T")


class LoaderWorkers:
    """Context around the loop that reads a loader; once it is left, by whatever way, no worker of the loader lives."""

    def __init__(self) -> None:
        self._hears, self._tells = multiprocessing.Pipe(duplex=False)
        self._processes: list[BaseProcess] = []
        self._iterator: Any = None

    @property
    def begin(self) -> Callable[[int], None]:
        """What each worker does first: the loader's `worker_init_fn`."""
        return partial(_begin, self._hears, self._tells)

    def batches(self, loader: DataLoader[T]) -> Iterator[T]:
        """The loader's batches. The first one that is asked for starts the workers."""
        before = multiprocessing.active_children()
        try:
            self._iterator = iter(loader)
        finally:  # of workers that could not all be started, some may be there
            self._processes = [item for item in multiprocessing.active_children() if item not in before]
        yield from self._iterator

    def __enter__(self) -> LoaderWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        hurry = threading.Timer(GRACE_S, self._tell)
        hurry.daemon = True
        hurry.start()
        try:
            # The thread that pins memory has to end before the workers do, and torch alone knows it.
            if hasattr(self._iterator, "_shutdown_workers"):
                self._iterator._shutdown_workers()
        finally:
            hurry.cancel()
            hurry.join()
            self._iterator = None
            for process in self._processes:
                process.kill()
            for process in self._processes:
                process.join(GRACE_S)
            self._hears.close()
            self._tells.close()

    def _tell(self) -> None:
        """Every worker hears it: none takes the byte out of the pipe."""
        self._tells.send_bytes(b".")


def _begin(hears: Connection, tells: Connection, worker: int) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    tells.close()  # so that it is closed once the trainer is gone
    threading.Thread(target=_end_with_the_trainer, args=(hears, os.getppid()), daemon=True).start()


def _end_with_the_trainer(hears: Connection, parent: int) -> None:
    """Ends this worker when it is told to, or its parent is gone: at once, even in the middle of a picture."""
    while not hears.poll(LOOK_EVERY_S) and os.getppid() == parent:
        pass
    os._exit(0)  # torch takes any other code for a fault
