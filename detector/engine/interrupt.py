"""Stop on a signal: the loop saves after the current step and ends. A second Ctrl-C ends the process at once.

An evaluation is not completed: it starts again when the run is resumed.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """A signal in a block of `Interrupt.at_once`."""


class Interrupt:
    """Context in which SIGINT, SIGTERM and SIGUSR1 set `requested` instead of ending the process.

    In a thread other than the main one it changes nothing, because Python delivers signals to the main thread only.
    """

    def __init__(self) -> None:
        self.requested: str | None = None  # name of the signal
        self._at_once = False

    def __enter__(self) -> Interrupt:
        handled = SIGNALS if threading.current_thread() is threading.main_thread() else ()
        self._before = {number: signal.signal(number, self._handle) for number in handled}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Context in which the first signal also raises Stopped."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
        if self._at_once:
            self._at_once = False  # a scheduler sends more signals, which must not disturb the end of the block
            raise Stopped
