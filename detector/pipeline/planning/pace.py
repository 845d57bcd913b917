"""Keeps a fitted schedule true to its minutes while the machine becomes slower or faster.

A trial of a dozen steps cannot know who else will use the machine. So the number of steps is settled again a few times
from the steps so far; the learning rate's course follows. Each change is told, and stored with the checkpoints: a
resumed run keeps the last one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from detector.engine.distributed import from_main
from detector.engine.trainer import TrainingState

log = logging.getLogger("detector")

CHECKS = 20  # times that the steps are settled again
CHANGE = 0.04  # a smaller change is left alone
FINAL = 0.9  # of the steps, from where on they may only become fewer: the learning rate is almost 0
FEWEST = 10  # steps to measure on


class Pace:
    def __init__(
        self,
        *,
        deadline: float,
        after: float,
        evaluation: float,
        eval_every: int,
        changed: Callable[[TrainingState, int], None],
    ) -> None:
        """`deadline` is the moment (`time.monotonic`) by which all is to be done; `after` the seconds that the last
        evaluation and the report take; `evaluation` those of one in between, every `eval_every` steps (0: none).
        `changed` is told the new number of steps."""
        self.deadline = deadline
        self.after = after
        self.evaluation = evaluation
        self.eval_every = eval_every
        self.changed = changed
        self._seconds = 0.0  # of the steps since the last check
        self._steps = 0
        self._last: float | None = None

    def __call__(self, state: TrainingState, total: int) -> int:
        """The number of steps to train, after a step of `state`; `total` is the number so far."""
        now = time.monotonic()
        evaluated = self.eval_every > 0 and (state.step - 1) % self.eval_every == 0  # in the time since the last call
        if self._last is not None and not evaluated:
            self._seconds += now - self._last
            self._steps += 1
        self._last = now
        if self._steps < max(FEWEST, total // CHECKS):
            return total
        wanted = from_main(self._fitting(state.step, now))
        self._seconds, self._steps = 0.0, 0
        if state.step >= FINAL * total:
            wanted = min(wanted, total)
        if abs(wanted - total) <= CHANGE * max(1, total - state.step):
            return total
        log.info("%d steps instead of %d: a step takes another time than before", wanted, total)
        self.changed(state, wanted)
        return wanted

    def _fitting(self, step: int, now: float) -> int:
        """The steps that fit, at the pace of the last ones."""
        each = self._seconds / self._steps
        if self.eval_every > 0:
            each += self.evaluation / self.eval_every
        return step + max(1, int((self.deadline - self.after - now) / each))
