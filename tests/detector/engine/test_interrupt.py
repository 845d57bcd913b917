"""Signals that request a stop."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from detector.engine.interrupt import Interrupt, Stopped


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_is_recorded_by_name(name: str) -> None:
    with Interrupt() as interrupt:
        assert interrupt.requested is None
        os.kill(os.getpid(), getattr(signal, name))
        assert interrupt.requested == name


def test_a_second_ctrl_c_stops_at_once() -> None:
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_second_sigterm_is_only_recorded() -> None:
    """Schedulers send it repeatedly, while the run already stops."""
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.requested == "SIGTERM"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_block_can_be_stopped_at_once(name: str) -> None:
    """Further signals of a scheduler do not disturb the end of the block."""
    with Interrupt() as interrupt:
        with pytest.raises(Stopped), interrupt.at_once():  # noqa: PT012
            try:
                os.kill(os.getpid(), getattr(signal, name))
            finally:
                os.kill(os.getpid(), signal.SIGUSR1)
        assert interrupt.requested == "SIGUSR1"
        os.kill(os.getpid(), signal.SIGTERM)
    with Interrupt() as interrupt:
        with interrupt.at_once():
            pass
        os.kill(os.getpid(), getattr(signal, name))
        assert interrupt.requested == name


def test_handlers_are_restored_even_after_an_error() -> None:
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    with pytest.raises(RuntimeError), Interrupt():  # noqa: PT012
        assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
        raise RuntimeError
    assert {name: signal.getsignal(name) for name in before} == before


def test_a_thread_changes_no_handler() -> None:
    """Only the main thread may set one. A program with windows trains in another thread."""
    before = signal.getsignal(signal.SIGTERM)

    def enter() -> bool:
        with Interrupt() as interrupt:
            return interrupt.requested is None and signal.getsignal(signal.SIGTERM) is before

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(enter).result()
