"""Regression targets, and the kinds and weights of the losses."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class TargetStatistics(Enum):
    """The source of the mean and standard deviation of the box targets."""

    measured = "measured"  # measured over all foreground RoIs before training, per class and coordinate (fast-rcnn)
    fixed = "fixed"  # deltas_mean and deltas_std (py-faster-rcnn, R-FCN)


class BoxLoss(Enum):
    """The loss of a predicted box."""

    smooth_l1 = "smooth_l1"  # smooth L1 of the four deltas (Fast R-CNN)
    giou = "giou"  # 1 - generalized IoU of the decoded box with the object (Rezatofighi et al. 2019)
    ciou = "ciou"  # 1 - complete IoU of the decoded box with the object (Zheng et al. 2020)


@dataclass
class LossConfig:
    """The losses of the head."""

    targets: TargetStatistics | None = None  # statistics of the box targets; None: fixed with an RPN, else measured
    deltas_mean: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])  # targets=fixed: means of x, y, w, h
    deltas_std: list[float] = field(default_factory=lambda: [0.1, 0.1, 0.2, 0.2])  # targets=fixed: standard deviations
    box: BoxLoss = BoxLoss.smooth_l1  # the loss of a predicted box
    box_weight: float | None = None  # weight of the box loss (Fast R-CNN, lambda); None: 1, for giou and ciou 10
    sigma: float = 1.0  # smooth L1 is linear beyond 1 / sigma^2
    label_smoothing: float = 0.0  # share of the class target that is spread evenly over all classes; 0: none
    focal_gamma: float = 0.0  # RoIs whose true class has probability p count (1 - p)^focal_gamma (focal loss); 0: off
    class_balance_beta: float = 0.0  # weights for rare classes (effective numbers, Cui et al. 2019), as 0.99; 0: off
