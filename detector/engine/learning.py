"""Trains parts of a detector only, as in Faster R-CNN 3.2, "4-step alternating training"."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from detector.model import Detector


def train_only(detector: Detector, names: Sequence[str]) -> None:
    """Freeze every parameter outside the modules `names`, such as head or backbone.layer4.

    Where `head` or `proposals` is not among them, its losses do not count: a frozen head must not train the backbone.
    A parameter that two modules share is trained if either is named.

    Raises ValueError for a name without parameters in the detector.
    """
    parameters = dict(detector.named_parameters(remove_duplicate=False))
    under = {name: [key for key in parameters if f"{key}.".startswith(f"{name}.")] for name in names}
    for name, keys in under.items():
        if not keys:
            known = ", ".join(child for child, _ in detector.named_children())
            raise ValueError(f"expected modules with weights, got {name!r}; use one of {known}, or a module inside one")
    learning = {id(parameters[key]) for keys in under.values() for key in keys}
    for parameter in detector.parameters():
        if id(parameter) not in learning:
            parameter.requires_grad_(False)
    detector.trained_parts = frozenset({"proposals", "head"} & set(names))


def modules_of_the_head(backbone: nn.Module, *, side: int = 64) -> list[str]:
    """Names of the backbone's largest trainable modules that do not influence the proposal map.

    Only the head uses them, for example a dilated res5 or a tail; head and proposals share all others. The gradients
    of one blank image (`side` x `side` pixels) show which they are, so a backbone need not declare them.
    """
    backbone.zero_grad(set_to_none=True)
    parameter = next(backbone.parameters())
    maps = backbone(torch.zeros(1, 3, side, side, device=parameter.device)).proposals
    torch.stack([level.sum() for level in maps]).sum().backward()
    names = [name for child, module in backbone.named_children() for name in _without_gradient(child, module)]
    backbone.zero_grad(set_to_none=True)
    return names


def _without_gradient(name: str, module: nn.Module) -> list[str]:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if trained and all(parameter.grad is None for parameter in trained):
        return [name]
    return [found for child, part in module.named_children() for found in _without_gradient(f"{name}.{child}", part)]
