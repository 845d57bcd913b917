"""The optimizer and its learning rate over time."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from detector.configs.missing import MISSING


@dataclass
class OptimizerConfig:
    kind: str = MISSING
    lr: float = 1e-3  # learning rate at the start
    weight_decay: float = 5e-4  # of weights; biases only with bias_decay, norms never
    bias_lr_factor: float = 2.0  # learning rate of biases, times lr, as in Caffe
    bias_decay: bool = False  # weight decay for biases of new layers, as R-FCN does; Fast R-CNN does not
    lr_factors: dict[str, float] = field(default_factory=dict)  # rate of a module, times lr: {backbone: 0.1}
    clip_norm: float | None = None  # largest norm of the gradient; a larger one is scaled down; None: no limit


@dataclass
class SGDConfig(OptimizerConfig):
    kind: str = "sgd"
    momentum: float = 0.9  # share of the last update that the next one keeps


@dataclass
class AdamWConfig(OptimizerConfig):
    kind: str = "adamw"
    lr: float = 1e-4  # learning rate at the start
    weight_decay: float = 0.05  # of weights, decoupled from the gradient
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # averages of the gradient and its square
    bias_lr_factor: float = 1.0


class Decay(Enum):
    step = "step"
    cosine = "cosine"


@dataclass
class ScheduleConfig:
    decay: Decay = Decay.step  # step: times gamma at each milestone; cosine: to 0 at max_steps
    milestones: list[float] = field(default_factory=lambda: [0.75])  # fractions of max_steps; 0.75: 30,000 of 40,000
    gamma: float = 0.1  # factor at each milestone, for decay=step
    warmup_steps: int = 0  # first steps, in which the rate rises linearly to lr
    warmup_factor: float = 0.1  # share of lr at which the rise begins
