"""Ends a process that hangs and prints its stacks, so that one lost process does not let all others wait forever.

A collective that never returns blocks the main thread inside C, where no exception can be raised. So a second thread
watches the time of the last heartbeat. After the timeout it prints the stacks of all threads and ends the process.
"""

from __future__ import annotations

import faulthandler
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from detector.engine.distributed import rank, world_size

GRACE_S = 3.0  # between the stacks and the end, so that the other processes can print theirs

_last_sign = time.monotonic()


def heartbeat() -> None:
    """Tell the watchdog that this process makes progress."""
    global _last_sign  # one watchdog per process
    _last_sign = time.monotonic()


@contextmanager
def watchdog(timeout_s: float) -> Iterator[None]:
    """End the process with code 1 after `timeout_s` without a call of `heartbeat`. Do nothing in one process."""
    if world_size() == 1:
        yield
        return
    heartbeat()
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(timeout_s, done), daemon=True, name="watchdog")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _watch(timeout_s: float, done: threading.Event) -> None:
    while not done.wait(min(1.0, timeout_s / 4)):
        if time.monotonic() - _last_sign > timeout_s:
            os.write(2, _report(timeout_s).encode())
            time.sleep(GRACE_S)
            os._exit(1)


def _report(timeout_s: float) -> str:
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        stacks = file.read().decode()
    return (
        f"error: process {rank()} of {world_size()} made no progress for {timeout_s:g} s (trainer.timeout_minutes); "
        f"a process whose stack shows no collective is the one that the others wait for\n{stacks}\n"
    )
