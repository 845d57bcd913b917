"""Interface of a backbone: it computes feature maps of images, and has the tail that runs on each pooled RoI.

Feature maps are lists, the finest map first: one map, or the levels of a pyramid (`pyramid.py`).
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from detector.structures import FeatureMaps


class Backbone(Protocol):
    """Interface of a backbone (an nn.Module)."""

    proposal_strides: tuple[int, ...]  # input pixels per cell of each map that a region proposal network reads
    proposal_channels: int  # of each of these maps
    strides: tuple[int, ...]  # input pixels per cell of each map that the head reads
    head_channels: int  # of each of these maps
    tail: nn.Module | None  # pooled RoIs [R, head_channels, S, S] -> [R, tail_channels]; None if the head needs none
    tail_channels: int

    def __call__(self, images: Tensor) -> FeatureMaps:
        """Return feature maps of normalised images [N, 3, H, W]."""
        ...


class BottomUp(Protocol):
    """Interface of a classifier (an nn.Module) in a pyramid: it gives its last map of each stride, the finest first."""

    bottom_up_strides: tuple[int, ...]  # each is twice the previous stride
    bottom_up_channels: tuple[int, ...]

    def bottom_up(self, images: Tensor) -> list[Tensor]:
        """Return maps [N, C_i, H_i, W_i] of normalised images [N, 3, H, W]."""
        ...

    def rename(self, key: str) -> str | None:
        """Return the name here of a key of the classifier's state dict; None if this network has no such tensor."""
        ...
