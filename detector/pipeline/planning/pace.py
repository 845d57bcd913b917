"""Keeps a training within its minutes while the machine becomes slower or faster.

A trial of a few steps cannot predict the load of other programs. So the number of steps is computed again a few times
from the recent steps, and the learning rate schedule follows it. Each change is logged and stored with the checkpoints:
a resumed run keeps the last number.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from detector.engine.distributed import from_main
from detector.engine.trainer import TrainingState

log = logging.getLogger("detector")

CHECKS = 20  # times that the number of steps is computed again
MIN_CHANGE = 0.04  # share of the remaining steps; a smaller change is ignored
FINAL = 0.9  # share of the steps after which the number can only fall: the learning rate is almost 0
MIN_STEPS = 10  # steps to measure


class Pace:
    """Fits the number of steps to the time that is left, while the training runs."""

    def __init__(
        self,
        *,
        deadline: float,
        final_seconds: float,
        evaluation_seconds: float,
        eval_every: int,
        on_change: Callable[[TrainingState, int], None],
    ) -> None:
        """`deadline` is the time (`time.monotonic`) at which the run must end. `final_seconds` is the duration of the
        last evaluation and the report, `evaluation_seconds` that of each evaluation before, every `eval_every` steps
        (0: none). `on_change` is called with the new number of steps."""
        self.deadline = deadline
        self.final_seconds = final_seconds
        self.evaluation_seconds = evaluation_seconds
        self.eval_every = eval_every
        self.on_change = on_change
        self._seconds = 0.0  # of the steps since the last check
        self._steps = 0
        self._last: float | None = None

    def __call__(self, state: TrainingState, total: int) -> int:
        """Return the number of steps to train, after a step of `state`. `total` is the present number."""
        now = time.monotonic()
        evaluated = self.eval_every > 0 and (state.step - 1) % self.eval_every == 0  # since the last call
        if self._last is not None and not evaluated:
            self._seconds += now - self._last
            self._steps += 1
        self._last = now
        if self._steps < max(MIN_STEPS, total // CHECKS):
            return total
        wanted = from_main(self._fitting(state.step, now))
        self._seconds, self._steps = 0.0, 0
        if state.step >= FINAL * total:
            wanted = min(wanted, total)
        if abs(wanted - total) <= MIN_CHANGE * max(1, total - state.step):
            return total
        log.info("%d steps instead of %d: the time of a step has changed", wanted, total)
        self.on_change(state, wanted)
        return wanted

    def _fitting(self, step: int, now: float) -> int:
        """Return the number of steps that fits, at the speed of the recent steps."""
        each = self._seconds / self._steps
        if self.eval_every > 0:
            each += self.evaluation_seconds / self.eval_every
        return step + max(1, int((self.deadline - self.final_seconds - now) / each))
