"""Parameter groups and the learning rate's course, as the published solvers have them."""

from __future__ import annotations

import math
from typing import Any

from torch import nn


def parameter_groups(
    module: nn.Module, *, lr: float, weight_decay: float, bias_lr_factor: float, bias_decay: bool
) -> list[dict[str, Any]]:
    """Groups for an optimizer: weights, biases (own learning rate, decay by choice), scales of norms (no decay).

    Frozen parameters are left out. Source: fast-rcnn `models/VGG16/train.prototxt` (lr_mult 2, decay_mult 0 for
    biases); R-FCN's prototxt has no decay_mult, so its biases decay.
    """
    weights: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    scales: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.endswith("bias"):
            biases.append(parameter)
        else:
            (scales if parameter.ndim == 1 else weights).append(parameter)
    groups = [
        {"name": "weights", "params": weights, "lr": lr, "weight_decay": weight_decay},
        {
            "name": "biases",
            "params": biases,
            "lr": lr * bias_lr_factor,
            "weight_decay": weight_decay if bias_decay else 0.0,
        },
        {"name": "scales", "params": scales, "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def step_factor(
    step: int, *, max_steps: int, milestones: tuple[float, ...], gamma: float, warmup_steps: int, warmup_factor: float
) -> float:
    """Learning rate over the base rate at `step`: linear warm-up, then x gamma at each milestone (share of max_steps).

    PyTorch's momentum keeps gradients, Caffe's keeps steps: right after a milestone Caffe's velocity still holds the
    old rate. The two are the same while the rate is constant.
    """
    passed = sum(step >= round(share * max_steps) for share in milestones)
    return warmup(step, warmup_steps, warmup_factor) * gamma**passed


def cosine_factor(step: int, *, max_steps: int, warmup_steps: int, warmup_factor: float) -> float:
    """Learning rate over the base rate at `step`: linear warm-up, then half a cosine to 0 at max_steps."""
    progress = min(1.0, max(0.0, (step - warmup_steps) / max(1, max_steps - warmup_steps)))
    return warmup(step, warmup_steps, warmup_factor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def warmup(step: int, steps: int, factor: float) -> float:
    """From `factor` to 1 over the first `steps` steps."""
    return 1.0 if step >= steps else factor + (1.0 - factor) * step / steps
