"""`torch.compile` of the two most expensive parts: the backbone, and the tail that runs on pooled RoIs.

The backbone is compiled once for each canvas size. `input.canvas_multiple` rounds sides up, so that sizes stay few.
The tail is compiled once for any number of RoIs, since hard example mining changes this number from image to image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from detector.model import Detector

MOST_CANVASES = 64  # canvas sizes to compile for; torch's default limit of 8 is too low for detection


def compile_parts(detector: Detector, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile both parts in place. Names and values of the weights do not change."""
    torch._dynamo.config.recompile_limit = MOST_CANVASES
    backbone = detector.backbone
    assert isinstance(backbone, nn.Module)
    backbone.compile(dynamic=False, backend=backend)
    if backbone.tail is not None:
        assert isinstance(backbone.tail, nn.Module)
        backbone.tail.compile(dynamic=True, backend=backend)
