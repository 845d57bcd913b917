"""The optimizer and the learning rate schedule."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from detector.configs.missing import MISSING


@dataclass
class OptimizerConfig:
    """Settings of every optimizer."""

    kind: str = MISSING
    lr: float = 1e-3  # initial learning rate, after warm-up
    weight_decay: float = 5e-4  # weight decay of weights; of biases only with bias_decay; of norms never
    bias_lr_factor: float = 2.0  # learning rate of biases = this x lr, as in Caffe
    bias_decay: bool = False  # weight decay for biases of new layers too, as in R-FCN; Fast R-CNN has none
    lr_factors: dict[str, float] = field(default_factory=dict)  # learning rate of a module = this x lr: {backbone: 0.1}
    clip_norm: float | None = None  # largest norm of the gradient; larger gradients are scaled down; None: no limit


@dataclass
class SGDConfig(OptimizerConfig):
    """Stochastic gradient descent with momentum."""

    kind: str = "sgd"
    momentum: float = 0.9  # factor of the previous update in the next update


@dataclass
class AdamWConfig(OptimizerConfig):
    """AdamW (Loshchilov and Hutter 2017)."""

    kind: str = "adamw"
    lr: float = 1e-4  # initial learning rate, after warm-up
    weight_decay: float = 0.05  # weight decay of weights, decoupled from the gradient
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # decay of the averages of gradient and its square
    bias_lr_factor: float = 1.0


class Decay(Enum):
    """How the learning rate falls."""

    step = "step"
    cosine = "cosine"


@dataclass
class ScheduleConfig:
    """The learning rate over the steps."""

    decay: Decay = Decay.step  # step: x gamma at each milestone; cosine: to 0 at max_steps
    milestones: list[float] = field(default_factory=lambda: [0.75])  # fractions of max_steps; 0.75: 30,000 of 40,000
    gamma: float = 0.1  # factor of the learning rate at each milestone, for decay=step
    warmup_steps: int = 0  # number of first steps in which the learning rate rises linearly to lr
    warmup_factor: float = 0.1  # the rise starts at this factor x lr
