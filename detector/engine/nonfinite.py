"""Handles a loss that is not finite: stop with the cause, skip the step, or go back to the last checkpoint.

On the CPU, losses are read at every step. On a GPU this would make the host wait, so with `stop` the losses are read
only before logging and saving, for all steps since the last time. So no weights are saved after a non-finite loss.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from detector.engine.distributed import any_of, rank
from detector.engine.errors import NonFiniteLossError
from detector.engine.postmortem import write_postmortem
from detector.model import Detector
from detector.structures import Batch, Losses

log = logging.getLogger("detector")

MOST_IN_A_ROW = 10  # bad steps in a row that skip and rollback accept; with more, the run stops


class _Unread(NamedTuple):
    step: int
    batch: Batch
    losses: Losses
    finite: Tensor  # bool, on the device


class FiniteLoss:
    """Checks each step's loss before the optimizer step."""

    def __init__(
        self,
        policy: str,
        *,
        folder: Path,
        detector: Detector,
        precision: str,
        checkpoint: Path,
        roll_back: Callable[[Path], None],
    ) -> None:
        """`folder` receives the reports on bad steps. `roll_back` loads the weights of `checkpoint`."""
        self.policy = policy
        self.folder = folder
        self.detector = detector
        self.precision = precision
        self.checkpoint = checkpoint
        self.roll_back = roll_back
        self.last_good = 0
        self._unread: list[_Unread] = []
        self._in_a_row = 0

    def passes(self, step: int, batch: Batch, losses: Losses, lr: float, *, reading: bool) -> bool:
        """Whether to apply the gradient of `step` (from 1). `reading`: this step waits for the device anyway.

        Raises NonFiniteLossError in every process if the run has to stop.
        """
        finite = torch.isfinite(losses.total().detach())
        self._unread.append(_Unread(step, batch, losses, finite))
        if finite.is_cuda and self.policy == "stop" and not reading:
            return True
        unread, self._unread = self._unread, []
        own = [not good for good in torch.stack([item.finite for item in unread]).tolist()]
        everywhere = any_of(*own)
        if not any(everywhere):
            self.last_good, self._in_a_row = step, 0
            return True
        first = everywhere.index(True)
        self._in_a_row += 1
        message = (
            self._tell(unread[first], lr) if own[first] else f"the loss of a process other than {rank()} is not finite"
        )
        no_checkpoint = self.policy == "rollback" and not self.checkpoint.is_file()
        if self.policy == "stop" or self._in_a_row > MOST_IN_A_ROW or no_checkpoint:
            raise NonFiniteLossError(
                f"{message}; {'there is no checkpoint yet' if no_checkpoint else 'the last checkpoint is intact'}"
            )
        if self.policy == "rollback":
            self.roll_back(self.checkpoint)
        action = "step skipped" if self.policy == "skip" else "back to the weights of the last checkpoint"
        log.warning("%s; %s (%d in a row)", message, action, self._in_a_row)
        return False

    def _tell(self, bad: _Unread, lr: float) -> str:
        terms = ", ".join(f"{name} {value.item():.4g}" for name, value in bad.losses.parts.items())
        folder = self.folder / f"nonfinite_{bad.step:07d}_{rank()}"
        cause = write_postmortem(
            folder,
            self.detector,
            bad.batch,
            precision=self.precision,
            about={
                "step": bad.step,
                "last_good_step": min(self.last_good, bad.step - 1),
                "lr": lr,
                "precision": self.precision,
                "losses": {name: str(value.item()) for name, value in bad.losses.parts.items()},
            },
        )
        ids = ", ".join(bad.batch.image_ids)
        return f"the loss is not finite at step {bad.step} ({terms}) on images {ids}: {cause}; see {folder}"
