"""The exponential moving average of a detector's weights. It often detects better than the last weights."""

from __future__ import annotations

import copy
from typing import Any

import torch

from detector.model import Detector


class Average:
    """A copy of the detector whose weights are the exponential moving average of the trained ones."""

    def __init__(self, detector: Detector, decay: float) -> None:
        """`decay` is the share of the average that each step keeps. The first steps keep less of the random start."""
        self.decay = decay
        self.detector = copy.deepcopy(detector).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, detector: Detector, step: int) -> None:
        """Move the average towards the weights after `step` (from 1). Buffers, such as statistics, are copied."""
        keep = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            list(self.detector.parameters()), list(detector.parameters()), 1 - keep
        )
        for mine, other in zip(self.detector.buffers(), detector.buffers(), strict=True):
            mine.copy_(other)


def evaluated_weights(content: dict[str, Any]) -> dict[str, Any]:
    """The weights that the run evaluates: the average if the checkpoint has one, else the model's weights."""
    weights: dict[str, Any] = content["model"] if content.get("average") is None else content["average"]
    return weights
