"""The optimizer and its learning rate over time."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from detector.configs.missing import MISSING


@dataclass
class OptimizerConfig:
    kind: str = MISSING
    lr: float = 1e-3  # learning rate at the start
    weight_decay: float = 5e-4  # weights only: no biases unless bias_decay, no norms
    bias_lr_factor: float = 2.0  # biases learn at so many times the rate, as in Caffe
    bias_decay: bool = False  # of new layers: R-FCN's released models decay them, Fast R-CNN's do not
    lr_factors: dict[str, float] = field(default_factory=dict)  # by module: {backbone: 0.1, backbone.layer4: 0.5}
    clip_norm: float | None = None  # a gradient of a larger norm is scaled down to it; None: never


@dataclass
class SGDConfig(OptimizerConfig):
    kind: str = "sgd"
    momentum: float = 0.9  # of SGD


@dataclass
class AdamWConfig(OptimizerConfig):
    kind: str = "adamw"
    lr: float = 1e-4  # learning rate at the start
    weight_decay: float = 0.05  # weights only, decoupled
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # averages of the gradient and its square
    bias_lr_factor: float = 1.0


class Decay(Enum):
    step = "step"
    cosine = "cosine"


@dataclass
class ScheduleConfig:
    decay: Decay = Decay.step  # step: times gamma at each milestone; cosine: to 0 at max_steps
    milestones: list[float] = field(default_factory=lambda: [0.75])  # fractions of max_steps: 30k of 40k
    gamma: float = 0.1  # of decay=step
    warmup_steps: int = 0  # so many first steps rise linearly to the full rate
    warmup_factor: float = 0.1  # the rise begins at this share of it
