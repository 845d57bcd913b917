"""Parameter groups and learning rate schedules of the published solvers, and optimizers that load no compiler."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

KINDS = ("weights", "biases", "decaying biases", "scales")  # in the optimizer's order
NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
FOR_GRAPHS = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")  # methods that torch wraps for graphs
Kind = TypeVar("Kind", bound=torch.optim.Optimizer)


def without_compiler(kind: type[Kind]) -> type[Kind]:
    """Return the optimizer class without the wrappers that let torch's compiler cut a graph at its methods.

    They load the compiler, which takes longer to import than torch. Only parts of the detector are ever compiled.
    """
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in FOR_GRAPHS}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), methods)


def parameter_groups(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    bias_lr_factor: float,
    bias_decay: bool,
    new: Collection[str],
    lr_factors: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Groups for an optimizer: weights, biases (own learning rate), biases with weight decay, norm scales (no decay).

    With `bias_decay`, the biases of layers in the modules `new` decay too. `lr_factors` maps module names to factors of
    the learning rate; for nested names, the longest one counts. Frozen parameters and empty groups are left out.

    Raises ValueError for a name in `lr_factors` without trained parameters; the message lists the possible names.

    Source: fast-rcnn `models/VGG16/train.prototxt` (lr_mult 2, decay_mult 0 for every bias). R-FCN's prototxt has no
    decay_mult, so the biases of its new layers decay. Its ResNet has no other biases, except in frozen norms.
    """
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):  # a tail lies in backbone and head
        if parameter.requires_grad:
            names.setdefault(parameter, []).append(name)
    norms = {p for part in module.modules() if isinstance(part, NORMS) for p in part.parameters(recurse=False)}
    _require_known(lr_factors, [name for aliases in names.values() for name in aliases])
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for parameter, aliases in names.items():
        factor = _factor(aliases, lr_factors)
        kind, own_factor, decay = "weights", 1.0, weight_decay
        if aliases[0].endswith("bias"):
            kind, own_factor, decay = "biases", bias_lr_factor, 0.0
            if bias_decay and parameter not in norms and any(_lies_in(aliases[0], part) for part in new):
                kind, decay = "decaying biases", weight_decay
        elif parameter.ndim == 1:
            kind, decay = "scales", 0.0
        group_name = kind if factor == 1 else f"{kind} x{factor:g}"
        group = {"name": group_name, "params": [], "lr": lr * own_factor * factor, "weight_decay": decay}
        groups.setdefault((kind, factor), group)["params"].append(parameter)
    return [groups[key] for key in sorted(groups, key=lambda key: (KINDS.index(key[0]), -key[1]))]


def match_layouts(optimizer: torch.optim.Optimizer) -> None:
    """Give the state of every parameter the parameter's order in memory. A fused step reads both in this order."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def start_momentum(optimizer: torch.optim.SGD) -> None:
    """Start the momentum at 0. The first step is the same as when torch starts it from the first gradient.

    If fp16's loss scale skips the first step, torch's fused step leaves the momentum as memory that nobody wrote.
    """
    for group in optimizer.param_groups:
        if group["momentum"] > 0:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _factor(aliases: Sequence[str], factors: Mapping[str, float]) -> float:
    """The factor of the longest module name that contains the parameter; 1 if there is none."""
    found = [part for part in factors if any(_lies_in(name, part) for name in aliases)]
    return factors[max(found, key=len)] if found else 1.0


def _lies_in(name: str, module: str) -> bool:
    return f"{name}.".startswith(f"{module}.")


def _require_known(factors: Mapping[str, float], names: Sequence[str]) -> None:
    for part in factors:
        if not any(_lies_in(name, part) for name in names):
            depth = part.count(".") + 1
            known = dict.fromkeys(".".join(name.split(".")[:depth]) for name in names)
            raise ValueError(
                f"optimizer.lr_factors has {part!r}, which has no trained parameters; use one of {', '.join(known)}"
            )


def step_factor(
    step: int, *, max_steps: int, milestones: tuple[float, ...], gamma: float, warmup_steps: int, warmup_factor: float
) -> float:
    """The learning rate at `step` divided by the base rate: linear warm-up, then a factor `gamma` at each milestone.

    `milestones` are shares of `max_steps`. PyTorch's momentum averages gradients, Caffe's averages updates: right after
    a milestone, Caffe's momentum still contains the old rate. With a constant rate both are equal.
    """
    passed = sum(step >= round(share * max_steps) for share in milestones)
    return warmup(step, warmup_steps, warmup_factor) * gamma**passed


def cosine_factor(step: int, *, max_steps: int, warmup_steps: int, warmup_factor: float) -> float:
    """The learning rate at `step` divided by the base rate: linear warm-up, then half a cosine to 0 at `max_steps`."""
    progress = min(1.0, max(0.0, (step - warmup_steps) / max(1, max_steps - warmup_steps)))
    return warmup(step, warmup_steps, warmup_factor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def warmup(step: int, steps: int, factor: float) -> float:
    """Return a factor that rises linearly from `factor` to 1 over the first `steps` steps."""
    return 1.0 if step >= steps else factor + (1.0 - factor) * step / steps
