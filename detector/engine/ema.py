"""The exponential moving average of a detector's weights: often a better detector than the last step's."""

from __future__ import annotations

import copy
from typing import Any

import torch

from detector.model import Detector


class Average:
    def __init__(self, detector: Detector, decay: float) -> None:
        """`decay` is the share kept at each step; the first steps keep less, so that the start is soon forgotten."""
        self.decay = decay
        self.detector = copy.deepcopy(detector).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, detector: Detector, step: int) -> None:
        """Moves towards the weights after step `step` (from 1); statistics and other buffers are taken as they are."""
        keep = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            list(self.detector.parameters()), list(detector.parameters()), 1 - keep
        )
        for mine, other in zip(self.detector.buffers(), detector.buffers(), strict=True):
            mine.copy_(other)


def evaluated_weights(content: dict[str, Any]) -> dict[str, Any]:
    """The weights of a checkpoint that its figures are of: the average where the run kept one."""
    weights: dict[str, Any] = content["model"] if content.get("average") is None else content["average"]
    return weights
