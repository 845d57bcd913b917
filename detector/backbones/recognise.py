"""Finds the classifier that a weights file belongs to, by the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from torch import Tensor

from detector.backbones.nodes import classifier_without_values
from detector.backbones.torchvision_library import models

COMMON = (
    "mobilenet_v2", "resnet50", "resnet18", "resnet34", "resnet101", "resnet152", "vgg16", "vgg16_bn",
    "mobilenet_v3_large", "mobilenet_v3_small", "squeezenet1_1", "efficientnet_b0", "convnext_tiny",
)  # fmt: skip


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Return torchvision's name of the classifier that has exactly these tensors, or None.

    The last layer may have another number of classes, or be missing.
    """
    shapes = {key: tuple(value.shape) for key, value in state.items() if "num_batches_tracked" not in key}
    if not shapes:
        return None
    names = [*COMMON, *(name for name in models.list_models(module=models) if name not in COMMON)]
    return next((name for name in names if _fits(name, shapes)), None)


def _fits(name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    own = _shapes(name)
    if not own:
        return False
    last = list(own)[-2:]  # weight and bias of the last layer
    return (
        all(shapes.get(key) == shape for key, shape in own.items() if key not in last) and shapes.keys() <= own.keys()
    )


@cache
def _shapes(name: str) -> dict[str, tuple[int, ...]]:
    state = classifier_without_values(name).state_dict()
    return {key: tuple(value.shape) for key, value in state.items() if "num_batches" not in key}
