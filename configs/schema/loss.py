"""Regression targets and the weights of the losses."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class TargetStatistics(Enum):
    measured = "measured"  # per class and coordinate, over all foreground RoIs, before training (fast-rcnn)
    fixed = "fixed"  # `deltas_mean`, `deltas_std` (py-faster-rcnn, R-FCN)


@dataclass
class LossConfig:
    targets: TargetStatistics | None = None  # None: measured for given proposals, fixed where a network proposes
    deltas_mean: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])  # of targets=fixed: x, y, w, h
    deltas_std: list[float] = field(default_factory=lambda: [0.1, 0.1, 0.2, 0.2])  # of targets=fixed; the divisor
    box_weight: float = 1.0  # lambda of equation 1
    sigma: float = 1.0  # smooth L1 turns linear at 1 / sigma^2
