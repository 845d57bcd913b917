"""Workers end with the loop that reads from them, however the loop ends and whatever the workers do then."""

import gc
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from detector.pipeline.loader_workers import LoaderWorkers


class Numbers(Dataset[int]):
    """The numbers 0 to 7. `prepare(index)` runs before each is returned."""

    def __init__(self, prepare: Callable[[int], object] = lambda index: None) -> None:
        self.prepare = prepare

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        self.prepare(index)
        return index


def loader(dataset: Numbers, workers: LoaderWorkers, count: int = 2) -> DataLoader[int]:
    return DataLoader(dataset, batch_size=None, num_workers=count, worker_init_fn=workers.init_worker)


def open_files() -> int:
    gc.collect()  # closes files that other tests left open
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("taken", [0, 1, 8])
def test_no_worker_outlives_the_context_after_any_number_of_batches(count: int, taken: int) -> None:
    with LoaderWorkers() as workers:
        batches = workers.batches(loader(Numbers(), workers, count))
        assert [next(batches) for _ in range(taken)] == list(range(taken))
        assert len(multiprocessing.active_children()) == (count if taken else 0)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_in_the_loop_is_raised_and_ends_the_workers(error: type[BaseException]) -> None:
    with pytest.raises(error), LoaderWorkers() as workers:  # noqa: PT012
        for _ in workers.batches(loader(Numbers(), workers)):
            raise error
    assert multiprocessing.active_children() == []


def test_an_error_in_a_worker_is_raised_and_ends_the_workers() -> None:
    def fail(index: int) -> None:
        if index == 3:
            raise ValueError("three")

    with pytest.raises(ValueError, match="three"), LoaderWorkers() as workers:
        list(workers.batches(loader(Numbers(fail), workers)))
    assert multiprocessing.active_children() == []


def test_a_worker_that_is_blocked_in_a_read_is_ended(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "never")

    def wait(index: int) -> None:
        if index > 1:
            (tmp_path / "never").read_bytes()

    with LoaderWorkers() as workers:
        batches = workers.batches(loader(Numbers(wait), workers))
        assert [next(batches), next(batches)] == [0, 1]
    assert multiprocessing.active_children() == []


def test_an_inner_loop_ends_only_its_own_workers() -> None:
    with LoaderWorkers() as outer:
        batches = outer.batches(loader(Numbers(), outer))
        first = next(batches)
        with LoaderWorkers() as inner:
            assert list(inner.batches(loader(Numbers(), inner, count=1))) == list(range(8))
        assert [first, *batches] == list(range(8))
    assert multiprocessing.active_children() == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torch's incomplete iterator
def test_workers_are_ended_if_a_later_worker_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = multiprocessing.Process.start, []

    def refuse_the_second(process: multiprocessing.Process) -> None:
        if started:
            raise OSError("no more processes")
        started.append(process)
        start(process)

    monkeypatch.setattr(multiprocessing.Process, "start", refuse_the_second)
    with pytest.raises(OSError, match="no more processes"), LoaderWorkers() as workers:
        next(workers.batches(loader(Numbers(), workers)))
    assert len(started) == 1
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list a process's files")
@pytest.mark.parametrize("count", [0, 2])
def test_no_file_stays_open(count: int) -> None:
    def read() -> None:
        with LoaderWorkers() as workers:
            next(workers.batches(loader(Numbers(), workers, count)))

    read()
    before = open_files()
    for _ in range(3):
        read()
    assert open_files() == before
