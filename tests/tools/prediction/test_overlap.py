"""Reading ahead and writing behind keep the order, hold few pictures, and lose no error."""

from __future__ import annotations

import threading
from functools import partial
from itertools import islice

import pytest

from detector.tools.prediction.overlap import AHEAD, BEHIND, read_ahead, written_behind


def test_reading_keeps_the_order_and_stays_a_few_items_ahead() -> None:
    read: list[int] = []

    def double(item: int) -> int:
        read.append(item)
        return 2 * item

    results = read_ahead(range(20), double)
    assert list(islice(results, 3)) == [0, 2, 4]
    assert len(read) <= 3 + AHEAD
    assert list(results) == [2 * item for item in range(3, 20)]


def test_reading_happens_in_another_thread() -> None:
    (thread,) = read_ahead([None], lambda _: threading.get_ident())
    assert thread != threading.get_ident()


def test_an_error_in_reading_is_raised_at_its_position() -> None:
    results = read_ahead([2, 1, 0], lambda item: 2 // item)
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_all_calls_are_done_in_order_when_the_context_ends() -> None:
    done: list[int] = []
    with written_behind() as later:
        for item in range(50):
            later(partial(done.append, item))
            assert item - len(done) <= BEHIND
    assert done == list(range(50))


@pytest.mark.parametrize("position", [0, 9])
def test_an_error_in_writing_ends_the_context_and_later_calls(position: int) -> None:
    """Position 0 fails while other calls follow. Position 9 fails when the context ends."""
    done: list[int] = []

    def write(item: int) -> None:
        if item == position:
            raise OSError("disk full")
        done.append(item)

    def write_all() -> None:
        with written_behind() as later:
            for item in range(10):
                later(partial(write, item))

    with pytest.raises(OSError, match="disk full"):
        write_all()
    assert done == list(range(position))


def test_an_error_of_the_caller_is_raised() -> None:
    done: list[int] = []

    def write_and_fail() -> None:
        with written_behind() as later:
            later(partial(done.append, 1))
            raise KeyError("network")

    with pytest.raises(KeyError):
        write_and_fail()
    assert done == [1]
