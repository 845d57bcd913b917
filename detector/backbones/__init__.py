"""A backbone turns images into feature maps and offers the tail that runs on each pooled RoI."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from detector.structures import FeatureMaps


class Backbone(Protocol):
    """What the rest of the detector asks of a backbone (an nn.Module)."""

    stride: int  # input pixels per cell of both maps
    proposal_channels: int  # of the map that a region proposal network reads
    head_channels: int  # of the map that the head reads
    tail: nn.Module | None  # pooled RoIs [R, head_channels, S, S] -> [R, tail_channels]; None where the head needs none
    tail_channels: int

    def __call__(self, images: Tensor) -> FeatureMaps:
        """Feature maps of normalised images [N, 3, H, W]."""
        ...
