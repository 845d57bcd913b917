"""A backbone turns images into feature maps and offers the tail that runs on each pooled RoI.

It gives lists of maps, the finest first: one map, or the levels of a pyramid (`pyramid.py`).
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from detector.structures import FeatureMaps


class Backbone(Protocol):
    """What the rest of the detector asks of a backbone (an nn.Module)."""

    proposal_strides: tuple[int, ...]  # input pixels per cell of each map that a region proposal network reads
    proposal_channels: int  # of each of these maps
    strides: tuple[int, ...]  # input pixels per cell of each map that the head reads
    head_channels: int  # of each of these maps
    tail: nn.Module | None  # pooled RoIs [R, head_channels, S, S] -> [R, tail_channels]; None where the head needs none
    tail_channels: int

    def __call__(self, images: Tensor) -> FeatureMaps:
        """Feature maps of normalised images [N, 3, H, W]."""
        ...


class BottomUp(Protocol):
    """What a pyramid asks of the classifier below it (an nn.Module): its last map at each stride, the finest first."""

    bottom_up_strides: tuple[int, ...]  # each twice the one before
    bottom_up_channels: tuple[int, ...]

    def bottom_up(self, images: Tensor) -> list[Tensor]:
        """Maps [N, C_i, H_i, W_i] of normalised images [N, 3, H, W]."""
        ...

    def rename(self, key: str) -> str | None:
        """Where a key of the classifier's state dict goes; None for what this network has no place for."""
        ...
