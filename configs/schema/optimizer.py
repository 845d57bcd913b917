"""The optimizer and its learning rate over time."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from detector.configs.missing import MISSING


@dataclass
class OptimizerConfig:
    kind: str = MISSING
    lr: float = 1e-3
    weight_decay: float = 5e-4
    bias_lr_factor: float = 2.0
    bias_decay: bool = False  # of new layers: R-FCN's released models decay them, Fast R-CNN's do not
    lr_factors: dict[str, float] = field(default_factory=dict)  # by module: {backbone: 0.1, backbone.layer4: 0.5}
    clip_norm: float | None = None


@dataclass
class SGDConfig(OptimizerConfig):
    kind: str = "sgd"
    momentum: float = 0.9


@dataclass
class AdamWConfig(OptimizerConfig):
    kind: str = "adamw"
    lr: float = 1e-4
    weight_decay: float = 0.05
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    bias_lr_factor: float = 1.0


class Decay(Enum):
    step = "step"
    cosine = "cosine"


@dataclass
class ScheduleConfig:
    decay: Decay = Decay.step
    milestones: list[float] = field(default_factory=lambda: [0.75])  # fractions of max_steps: 30k of 40k
    gamma: float = 0.1
    warmup_steps: int = 0
    warmup_factor: float = 0.1
