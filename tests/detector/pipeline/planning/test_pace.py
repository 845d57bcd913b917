"""A fitted schedule follows the machine's speed, measured with a simulated clock."""

from types import SimpleNamespace
from typing import Any

import pytest

from detector.pipeline.planning import pace as pace_module
from detector.pipeline.planning.pace import Pace


class Clock:
    """A clock that only the test advances."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(pace_module.time, "monotonic", lambda: self.now)


def train(clock: Clock, pace: Pace, total: int, seconds: Any, evaluation: float = 0.0, every: int = 0) -> int:
    """Train until `pace` ends the run. A step takes `seconds(step)`. Return the number of steps."""
    state: Any = SimpleNamespace(step=0)
    while state.step < total:
        clock.now += seconds(state.step)
        state.step += 1
        total = pace(state, total)
        if every and state.step % every == 0:
            clock.now += evaluation
    return int(state.step)


def make(clock: Clock, minutes: float, changes: list[int], **settings: Any) -> Pace:
    values = {"final_seconds": 10.0, "evaluation_seconds": 0.0, "eval_every": 0, **settings}
    return Pace(deadline=clock.now + 60 * minutes, on_change=lambda state, steps: changes.append(steps), **values)


def test_a_steady_machine_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, changes = Clock(monkeypatch), []
    assert train(clock, make(clock, 10, changes), 590, lambda step: 1.0) == 590
    assert changes == []


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_faster_or_slower_machine_still_ends_in_time(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    clock, changes = Clock(monkeypatch), []
    began = clock.now
    steps = train(clock, make(clock, 10, changes), 590, lambda step: factor)
    assert clock.now - began == pytest.approx(590, rel=0.04)
    assert steps == pytest.approx(590 / factor, rel=0.04)
    assert changes[-1] == steps


def test_a_machine_that_slows_down_half_way_still_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, changes = Clock(monkeypatch), []
    began = clock.now
    train(clock, make(clock, 10, changes), 590, lambda step: 1.0 if step < 295 else 2.0)
    assert clock.now - began == pytest.approx(590, rel=0.05)


def test_the_time_of_evaluations_is_counted_apart_from_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, changes = Clock(monkeypatch), []
    began = clock.now
    pace = make(clock, 10, changes, evaluation_seconds=20.0, eval_every=100)
    train(clock, pace, 490, lambda step: 1.0, evaluation=20.0, every=100)
    assert clock.now - began == pytest.approx(590, rel=0.05)


def test_the_run_is_never_extended_near_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Near the end the learning rate is almost 0, so more steps would be useless."""
    clock, changes = Clock(monkeypatch), []
    pace = make(clock, 10, changes)
    assert train(clock, pace, 590, lambda step: 1.0 if step < 540 else 0.1) == 590
    assert changes == []
