"""`torch.compile` of the two parts that hold nearly all the arithmetic: the backbone and the tail on pooled RoIs.

The backbone is compiled for each canvas, so there must not be many: `input.canvas_multiple` rounds sides up. The tail
is compiled once for any number of RoIs, which hard example mining changes from image to image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from detector.model import Detector

MOST_CANVASES = 64  # compiled for; torch's own limit of 8 is for programs whose shapes should not change


def compile_parts(detector: Detector, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compiles in place; names and values of the weights stay as they are."""
    torch._dynamo.config.recompile_limit = MOST_CANVASES
    backbone = detector.backbone
    assert isinstance(backbone, nn.Module)
    backbone.compile(dynamic=False, backend=backend)
    if backbone.tail is not None:
        assert isinstance(backbone.tail, nn.Module)
        backbone.tail.compile(dynamic=True, backend=backend)
