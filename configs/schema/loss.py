"""Regression targets and the weights of the losses."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class TargetStatistics(Enum):
    """Where the mean and standard deviation of the box targets come from."""

    measured = "measured"  # measured over all foreground RoIs before training, per class and coordinate (fast-rcnn)
    fixed = "fixed"  # deltas_mean and deltas_std (py-faster-rcnn, R-FCN)


@dataclass
class LossConfig:
    """The losses of the head."""

    targets: TargetStatistics | None = None  # statistics of the box targets; None: fixed with an RPN, else measured
    deltas_mean: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])  # targets=fixed: means of x, y, w, h
    deltas_std: list[float] = field(default_factory=lambda: [0.1, 0.1, 0.2, 0.2])  # targets=fixed: standard deviations
    box_weight: float = 1.0  # weight of the box loss: lambda in equation 1 of Fast R-CNN
    sigma: float = 1.0  # smooth L1 is linear beyond 1 / sigma^2
