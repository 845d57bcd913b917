"""The values that a run shows, read back from TensorBoard's files."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from detector.engine.monitor import Monitor
from detector.structures import Losses, Mean


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def losses(value: float) -> Losses:
    return Losses(
        {
            "loss_cls": Mean(torch.tensor(2 * value, requires_grad=True), torch.tensor(2)),
            "loss_box": Mean(torch.tensor(1.0), torch.tensor(1)),
        },
        {},
        {"rois_foreground": torch.tensor(16)},
    )


def test_means_since_the_last_logging_step_are_written(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, first_step=0, max_steps=4, log_every=2)
    for step, value in enumerate((1.0, 3.0, 5.0, 9.0), start=1):
        monitor.step(step, losses(value), lr=0.5, num_images=2)
    monitor.close()
    found = scalars(tmp_path)
    assert found["train/loss_cls"] == [(2, 2.0), (4, 7.0)]
    assert found["train/loss"] == [(2, 3.0), (4, 8.0)]
    assert found["train/rois_foreground"] == [(2, 16.0), (4, 16.0)]
    assert found["train/lr"] == [(2, 0.5), (4, 0.5)]
    assert all(value > 0 for _, value in found["speed/images_per_s"])


def test_the_loss_scale_is_written_if_it_is_enabled(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, first_step=0, max_steps=2, log_every=1)
    for step, enabled in ((1, False), (2, True)):
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, enabled=enabled)
        monitor.step(step, losses(1.0), lr=0.1, num_images=1, scaler=scaler)
    monitor.close()
    assert scalars(tmp_path)["train/loss_scale"] == [(2, 64.0)]


def test_waiting_for_data_is_measured(tmp_path: Path) -> None:
    def slow() -> Iterator[int]:
        for index in range(2):
            time.sleep(0.05)
            yield index

    monitor = Monitor(tmp_path, first_step=0, max_steps=2, log_every=2)
    for index in monitor.waiting(slow()):
        monitor.step(index + 1, losses(1.0), lr=0.1, num_images=1)
    monitor.close()
    ((_, share),) = scalars(tmp_path)["speed/data_wait_share"]
    assert 0.5 < share <= 1


def test_an_evaluation_does_not_count_as_training_time(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, first_step=0, max_steps=2, log_every=1)
    monitor.step(1, losses(1.0), lr=0.1, num_images=1)
    time.sleep(0.3)
    monitor.resume_clock()
    monitor.step(2, losses(1.0), lr=0.1, num_images=1)
    monitor.close()
    assert scalars(tmp_path)["speed/images_per_s"][1][1] > 1 / 0.3


def test_values_of_an_earlier_run_beyond_the_resumed_step_are_hidden(tmp_path: Path) -> None:
    first = Monitor(tmp_path, first_step=0, max_steps=6, log_every=1)
    for step in range(1, 6):
        first.step(step, losses(1.0), lr=0.1, num_images=1)
    first.close()
    time.sleep(1.1)  # TensorBoard orders files by the second in their names
    second = Monitor(tmp_path, first_step=3, max_steps=6, log_every=1)
    second.step(4, losses(7.0), lr=0.1, num_images=1)
    second.close()
    assert scalars(tmp_path)["train/loss_cls"] == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 7.0)]


def test_the_progress_bar_starts_at_the_resumed_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = Monitor(tmp_path, first_step=3, max_steps=6, log_every=1)
    assert (monitor.bar.n, monitor.bar.total) == (3, 6)
    monitor.close()
    assert "3/6" in capsys.readouterr().err


def test_a_bar_moves_often_in_a_notebook_and_seldom_in_a_log_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kernel, seconds in ((None, 30), (ModuleType("ipykernel"), 0.5)):
        monkeypatch.setitem(sys.modules, "ipykernel", kernel)
        monitor = Monitor(tmp_path, first_step=0, max_steps=6, log_every=1)
        monitor.close()
        assert monitor.bar.mininterval == seconds


def test_a_new_number_of_steps_keeps_the_count_and_the_time(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, first_step=2, max_steps=6, log_every=100)
    monitor.step(3, losses(1.0), lr=0.1, num_images=1)
    started = monitor.bar.start_t
    monitor.set_total(9)
    assert (monitor.bar.n, monitor.bar.total, monitor.bar.initial, monitor.bar.start_t) == (3, 9, 2, started)
    monitor.step(4, losses(1.0), lr=0.1, num_images=1)
    assert monitor.bar.n == 4
    monitor.close()
