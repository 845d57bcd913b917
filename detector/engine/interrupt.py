"""Stop on a signal: the loop saves after the current step and ends. A second Ctrl-C ends the process at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Interrupt:
    """Context in which SIGINT, SIGTERM and SIGUSR1 set `requested` instead of ending the process.

    In a thread other than the main one it changes nothing, because Python delivers signals to the main thread only.
    """

    def __init__(self) -> None:
        self.requested: str | None = None  # name of the signal

    def __enter__(self) -> Interrupt:
        handled = SIGNALS if threading.current_thread() is threading.main_thread() else ()
        self._before = {number: signal.signal(number, self._handle) for number in handled}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
