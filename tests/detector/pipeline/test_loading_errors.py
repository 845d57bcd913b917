"""Errors and deaths of workers, reported in one line."""

from collections.abc import Callable
from typing import NoReturn

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from detector.pipeline.loader_workers import LoaderWorkers
from detector.pipeline.loading_errors import loading_errors


class Failing(Dataset[int]):
    def __init__(self, fail: Callable[[], object]) -> None:
        self.fail = fail

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        self.fail()
        return index


def load(fail: Callable[[], object]) -> None:
    with loading_errors(), LoaderWorkers() as workers:
        loader = DataLoader(Failing(fail), batch_size=None, num_workers=1, worker_init_fn=workers.init_worker)
        list(workers.batches(loader))


def raising(error: BaseException) -> Callable[[], NoReturn]:
    def fail() -> NoReturn:
        raise error

    return fail


@pytest.mark.parametrize("kind", [ValueError, OSError, MemoryError])
def test_an_error_in_a_worker_keeps_only_its_message(kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        load(raising(kind("a.jpg: cannot decode this: image; replace it")))
    assert str(caught.value) == "a.jpg: cannot decode this: image; replace it"


def test_an_error_without_a_message_gets_one() -> None:
    with pytest.raises(MemoryError, match="^a loader worker has no memory left"):
        load(raising(MemoryError()))


def test_torch_out_of_memory_in_a_worker_names_the_remedy() -> None:
    with pytest.raises(MemoryError, match=r"^a loader worker has no memory left: lower trainer\.workers.*$"):
        load(lambda: torch.empty(1 << 50, dtype=torch.uint8))


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="Traceback"):
        load(raising(RuntimeError("a bug")))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), "a loader worker exited unexpectedly.*Lower"),
        (EOFError(), "a loader worker exited unexpectedly.*Lower trainer.workers"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "was killed by signal: Killed: .*"),
        (RuntimeError("Too many open files. Communication with the"), "too many open files: raise the limit"),
    ],
)
def test_the_death_of_a_worker_is_explained(error: Exception, message: str) -> None:
    with pytest.raises(OSError, match=message), loading_errors():
        raise error


def test_other_errors_pass() -> None:
    for error in (ValueError("a"), OSError("b"), RuntimeError("c"), KeyError("d")):
        with pytest.raises(type(error)) as caught, loading_errors():
            raise error
        assert caught.value is error
