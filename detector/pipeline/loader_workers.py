"""Lifetime of a loader's worker processes: they always end with the loop that reads from them, or with the trainer.

Workers ignore the signals on which the trainer saves, so a signal to the whole process group does not stop them. But
`multiprocessing` ends its processes with SIGTERM, and waits forever for a process that ignores it. So each worker has
a thread that waits for a stop message from the trainer.
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

GRACE_S = 1.0  # time for a worker to finish its batch before it must end
CHECK_EVERY_S = 1.0  # interval at which a worker checks that the trainer still runs

T = TypeVar("T")


class LoaderWorkers:
    """Context around the loop that reads a loader. After it, even after an error, no worker of the loader runs."""

    def __init__(self) -> None:
        self._receiver, self._sender = multiprocessing.Pipe(duplex=False)
        self._processes: list[BaseProcess] = []
        self._iterator: Any = None

    @property
    def init_worker(self) -> Callable[[int], None]:
        """The `worker_init_fn` of the loader."""
        return partial(_init_worker, self._receiver, self._sender)

    def batches(self, loader: DataLoader[T]) -> Iterator[T]:
        """Yield the loader's batches. The first request starts the workers."""
        before = multiprocessing.active_children()
        try:
            self._iterator = iter(loader)
        finally:  # if not all workers could be started, some may run
            self._processes = [item for item in multiprocessing.active_children() if item not in before]
        yield from self._iterator

    def __enter__(self) -> LoaderWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        timer = threading.Timer(GRACE_S, self._stop_workers)
        timer.daemon = True
        timer.start()
        try:
            # The thread that pins memory must end before the workers. Only torch has a reference to it.
            if hasattr(self._iterator, "_shutdown_workers"):
                self._iterator._shutdown_workers()
        finally:
            timer.cancel()
            timer.join()
            self._iterator = None
            for process in self._processes:
                process.kill()
            for process in self._processes:
                process.join(GRACE_S)
            self._receiver.close()
            self._sender.close()

    def _stop_workers(self) -> None:
        """Send the stop message. It reaches every worker, because no worker reads the byte from the pipe."""
        self._sender.send_bytes(b".")


def _init_worker(receiver: Connection, sender: Connection, worker: int) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sender.close()  # so that the pipe is closed when the trainer ends
    threading.Thread(target=_end_with_the_trainer, args=(receiver, os.getppid()), daemon=True).start()


def _end_with_the_trainer(receiver: Connection, parent: int) -> None:
    """End this worker on the stop message or when its parent ends: immediately, even while it reads a picture."""
    while not receiver.poll(CHECK_EVERY_S) and os.getppid() == parent:
        pass
    os._exit(0)  # torch treats any other code as an error
