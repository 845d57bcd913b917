"""One fine map that knows what the coarse ones know (Feature Pyramid Networks, figure 3, its finest level alone).

    coarse map --1x1--> + --x2--+
                                v
    middle map --1x1----------> + --x2--+
                                        v
    fine map   --1x1------------------> + --3x3--> the map that proposals and head read

A dilated network computes its last layers on the fine map, at four or sixteen times the cells. Here they stay coarse,
so a map of stride 8 costs little more than one of stride 32. Lin et al. 2017 measure this variant in table 1 (f).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detector.separable import conv3x3, pass_through


class TopDown(nn.Module):
    def __init__(self, in_channels: Sequence[int], channels: int, *, separable: bool = False) -> None:
        """`in_channels` are those of the maps, from the finest to the coarsest; `channels` those of the result.

        `separable` makes the last 3x3 a depthwise and a 1x1 convolution.
        """
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(count, channels, 1) for count in in_channels)
        self.smooth = conv3x3(channels, channels, separable=separable)
        for conv in self.lateral:
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)
        if sum(in_channels) <= channels:
            self._start_side_by_side(in_channels)
        pass_through(self.smooth)

    @torch.no_grad()
    def _start_side_by_side(self, in_channels: Sequence[int]) -> None:
        """At the start each map keeps channels of its own: the result is the classifier's own features.

        Random layers would have to be learned first. A short training has no time for that.
        """
        first = 0
        for conv, count in zip(self.lateral, in_channels, strict=True):
            assert isinstance(conv, nn.Conv2d)
            conv.weight.zero_()
            conv.weight[first : first + count, :, 0, 0].fill_diagonal_(1.0)
            first += count

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """One map [N, channels, H, W] of the finest map's size, from maps [N, C_i, H_i, W_i], finest first."""
        merged: Tensor | None = None
        for conv, features in zip(reversed(self.lateral), reversed(maps), strict=True):
            here = conv(features)
            if merged is not None:
                here = here + F.interpolate(merged, size=here.shape[2:], mode="nearest")
            merged = here
        assert merged is not None
        smoothed: Tensor = self.smooth(merged)
        return smoothed
