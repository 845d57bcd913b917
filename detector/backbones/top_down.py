"""The top-down pathway that adds coarse maps to fine maps (Feature Pyramid Networks, figure 3).

    coarse map --1x1--> + --x2--+
                                v
    middle map --1x1----------> + --x2--+
                                        v
    fine map   --1x1------------------> + --3x3--> a map that proposals and head read

`TopDown` gives the finest map only. A dilated network computes its last layers on the fine map, with four or sixteen
times as many cells. Here they stay coarse, so a map of stride 8 costs little more than a map of stride 32. Lin et al.
2017 measure this variant in table 1 (f). `FPN` gives a map at every level, each after a separate 3x3 convolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detector.separable import conv3x3, pass_through


class TopDown(nn.Module):
    """Coarse maps, enlarged and added to the finest map."""

    def __init__(self, in_channels: Sequence[int], channels: int, *, separable: bool = False) -> None:
        """`in_channels` are the channels of the input maps, the finest first; `channels` are those of the output.

        `separable` makes the last 3x3 a depthwise and a 1x1 convolution.
        """
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(count, channels, 1) for count in in_channels)
        self.smooth = conv3x3(channels, channels, separable=separable)
        _initialise(*self.lateral)
        if sum(in_channels) <= channels:
            self._start_side_by_side(in_channels)
        pass_through(self.smooth)

    @torch.no_grad()
    def _start_side_by_side(self, in_channels: Sequence[int]) -> None:
        """Initialise `lateral` so that each map fills separate output channels with the classifier's features.

        Training would first have to learn random layers, and a short training has no time for that.
        """
        first = 0
        for conv, count in zip(self.lateral, in_channels, strict=True):
            assert isinstance(conv, nn.Conv2d)
            conv.weight.zero_()
            conv.weight[first : first + count, :, 0, 0].fill_diagonal_(1.0)
            first += count

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return one map [N, channels, H, W] of the finest map's size, from maps [N, C_i, H_i, W_i], finest first."""
        *_, finest = _merged(self.lateral, maps)
        smoothed: Tensor = self.smooth(finest)
        return smoothed


class FPN(nn.Module):
    """The top-down pathway of a feature pyramid (Feature Pyramid Networks, 3)."""

    def __init__(self, in_channels: Sequence[int], channels: int, num_levels: int) -> None:
        """`in_channels` are the channels of the input maps, the finest first; `channels` are those of every level.

        Each level beyond the maps is every second row and column of the previous level (P6 in the paper).
        """
        super().__init__()
        self.num_levels = num_levels
        self.lateral = nn.ModuleList(nn.Conv2d(count, channels, 1) for count in in_channels)
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        _initialise(*self.lateral, *self.smooth)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return levels [N, channels, H_i, W_i] from maps [N, C_i, H_i, W_i], both the finest first."""
        merged = [*_merged(self.lateral, maps)]
        levels: list[Tensor] = [conv(features) for conv, features in zip(self.smooth, reversed(merged), strict=True)]
        while len(levels) < self.num_levels:
            levels.append(F.max_pool2d(levels[-1], 1, stride=2))
        return levels


def _merged(lateral: nn.ModuleList, maps: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield each map, the coarsest first, plus all coarser maps."""
    merged: Tensor | None = None
    for conv, features in zip(reversed(lateral), reversed(maps), strict=True):
        level: Tensor = conv(features)
        if merged is not None:
            level = level + F.interpolate(merged, size=level.shape[2:], mode="nearest")
        merged = level
        yield merged


def _initialise(*convs: nn.Module) -> None:
    for conv in convs:
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        nn.init.kaiming_uniform_(conv.weight, a=1)
        nn.init.zeros_(conv.bias)
