"""Profiles of training steps, on request."""

import json
from pathlib import Path

import torch

from detector.engine.profile import WARM_UP, profiled
from detector.structures import Batch


def batches(count: int) -> list[Batch]:
    return [Batch([], [], None, [str(number)], [0], [0]) for number in range(count)]


def test_steps_after_the_warm_up_are_traced_and_every_batch_passes(tmp_path: Path) -> None:
    given = batches(WARM_UP + 4)
    passed = []
    for number, batch in enumerate(profiled(given, 2, tmp_path, torch.device("cpu"))):
        passed.append(batch)
        torch.ones(2, 2) @ torch.ones(2, 2)
        assert (tmp_path / "trace.json").is_file() == (number >= WARM_UP + 2)
    assert passed == given
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert sum(event.get("name") == "aten::mm" for event in events) == 2
    assert "aten::mm" in (tmp_path / "table.txt").read_text()


def test_a_run_that_ends_early_still_writes_its_trace(tmp_path: Path) -> None:
    steps = profiled(batches(WARM_UP + 3), 5, tmp_path, torch.device("cpu"))
    for _ in range(WARM_UP + 1):
        next(steps)
    assert list(tmp_path.iterdir()) == []
    steps.close()  # as after `break` in a loop
    assert (tmp_path / "trace.json").is_file()


def test_nothing_is_traced_unless_asked_for(tmp_path: Path) -> None:
    assert len(list(profiled(batches(WARM_UP + 2), 0, tmp_path, torch.device("cpu")))) == WARM_UP + 2
    assert list(tmp_path.iterdir()) == []
