"""Workers end with the loop that reads from them: on every way out of it, whatever they do at that moment."""

import gc
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from detector.pipeline.loader_workers import LoaderWorkers


class Numbers(Dataset[int]):
    """0 to 7, each prepared by `prepare` first."""

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
    gc.collect()  # what other tests left
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("taken", [0, 1, 8])
def test_none_outlives_the_context_however_many_batches_were_taken(count: int, taken: int) -> None:
    with LoaderWorkers() as workers:
        batches = workers.batches(loader(Numbers(), workers, count))
        assert [next(batches) for _ in range(taken)] == list(range(taken))
        assert len(multiprocessing.active_children()) == (count if taken else 0)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_of_the_loop_passes_and_takes_them_away(error: type[BaseException]) -> None:
    with pytest.raises(error), LoaderWorkers() as workers:  # noqa: PT012
        for _ in workers.batches(loader(Numbers(), workers)):
            raise error
    assert multiprocessing.active_children() == []


def test_an_error_of_a_worker_passes_and_takes_them_away() -> None:
    def fail(index: int) -> None:
        if index == 3:
            raise ValueError("three")

    with pytest.raises(ValueError, match="three"), LoaderWorkers() as workers:
        list(workers.batches(loader(Numbers(fail), workers)))
    assert multiprocessing.active_children() == []


def test_one_that_waits_for_a_file_that_never_comes_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "never")

    def wait(index: int) -> None:
        if index > 1:
            (tmp_path / "never").read_bytes()

    with LoaderWorkers() as workers:
        batches = workers.batches(loader(Numbers(wait), workers))
        assert [next(batches), next(batches)] == [0, 1]
    assert multiprocessing.active_children() == []


def test_a_loop_within_a_loop_takes_only_its_own_away() -> None:
    with LoaderWorkers() as outer:
        batches = outer.batches(loader(Numbers(), outer))
        first = next(batches)
        with LoaderWorkers() as inner:
            assert list(inner.batches(loader(Numbers(), inner, count=1))) == list(range(8))
        assert [first, *batches] == list(range(8))
    assert multiprocessing.active_children() == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torch's half-made iterator
def test_those_that_were_started_before_one_could_not_be_are_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
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
