"""The R-FCN head (R-FCN, figures 1 and 2): score maps, position-sensitive RoI pooling, a vote. No weights per RoI.

                        +--1x1--> k^2 (K + 1) score maps --PS RoI pool k x k, vote--> class scores [R, K + 1]
res5 --1x1, ReLU-- 1024-+
                        +--1x1--> k^2 4 (1 or K) box maps --PS RoI pool k x k, vote--> box deltas  [R, 1 or K, 4]

With several maps (a feature pyramid) each level has score maps, from shared weights. A RoI pools from the level for its
size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detector.heads import LevelMaps, Votes
from detector.heads.levels import levels_of, pool_levels
from detector.ops import boxes as box_ops
from detector.ops import ps_roi_align, ps_roi_pool, ps_roi_vote
from detector.structures import RoIPredictions


@dataclass
class PSPooling:
    """A position-sensitive pooling of (maps [N, k k D, H, W], rois [R, 5], k, spatial_scale)."""

    bins: Callable[[Tensor, Tensor, int, float], Tensor]  # [R, D, k, k], each bin from its own map
    vote: Callable[[Tensor, Tensor, int, float], Tensor]  # mean of the bins [R, D], by one operator if there is one
    inclusive: bool  # whether it takes the last pixel of a box instead of its end

    @staticmethod
    def published(reduction: str = "mean") -> PSPooling:
        """Return R-FCN's pooling (section 2, equation 1), with the mean or the maximum of each bin."""
        return PSPooling(
            bins=partial(ps_roi_pool, reduction=reduction),
            vote=partial(ps_roi_vote, reduction=reduction),
            inclusive=True,
        )

    @staticmethod
    def aligned() -> PSPooling:
        """Return PS-RoIAlign, which does not round coordinates. It is an alternative to the published layer."""
        bins = partial(ps_roi_align, sampling_ratio=2)
        return PSPooling(bins, lambda *arguments: bins(*arguments).mean(dim=(2, 3)), inclusive=False)


class RFCNHead(nn.Module):
    """Score maps, position-sensitive pooling and a vote (R-FCN, section 2)."""

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        channels: int,
        strides: Sequence[int],
        k: int,
        pooling: PSPooling,
        class_agnostic: bool,
    ) -> None:
        """`channels` is the width of the 1x1 reduction, `k` the number of bins along a side.

        `strides` are input pixels per cell of each map.
        """
        super().__init__()
        self.k = k
        self.pooling = pooling
        self.strides = tuple(strides)
        box_rows = 1 if class_agnostic else num_classes
        self.reduce = nn.Conv2d(in_channels, channels, 1)
        # Channel c = (class * k + row) * k + column, so that the maps of one class are contiguous.
        self.score_maps = nn.Conv2d(channels, k * k * (num_classes + 1), 1)
        self.box_maps = nn.Conv2d(channels, k * k * 4 * box_rows, 1)
        for layer in (self.reduce, self.score_maps, self.box_maps):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def maps(self, features: Sequence[Tensor]) -> LevelMaps:
        """Return score maps [N, k k (K + 1), H, W] and box maps [N, k k 4 rows, H, W] of features [N, C, H, W]."""
        hidden = [F.relu(self.reduce(level), inplace=True) for level in features]
        return [(self.score_maps(level), self.box_maps(level)) for level in hidden]

    def forward(self, maps: LevelMaps, boxes: list[Tensor]) -> RoIPredictions:
        """Return votes for N lists of boxes [R_i, 4] in the pixels of the network's input, one list per image."""
        score_maps, box_maps = zip(*maps, strict=True)
        rois = box_ops.to_rois(boxes, inclusive=self.pooling.inclusive)
        levels = levels_of(boxes, self.strides)
        logits, deltas = (pool_levels(kind, rois, levels, self.strides, self._vote) for kind in (score_maps, box_maps))
        return RoIPredictions(logits, deltas.unflatten(1, (-1, 4)))

    def _vote(self, maps: Tensor, rois: Tensor, spatial_scale: float) -> Tensor:
        return self.pooling.vote(maps, rois, self.k, spatial_scale)

    def votes(self, maps: LevelMaps, boxes: list[Tensor]) -> Votes:
        """Return the bins that `forward` averages to class scores, for pictures of them (figures 3 and 4).

        `maps` and `boxes` [R_i, 4], in the pixels of the network's input, are those of `forward`.

        Raises ValueError for boxes that read maps of several levels.
        """
        levels = levels_of(boxes, self.strides)
        read = [0] if levels is None else levels.unique().tolist()
        if len(read) != 1:
            raise ValueError(
                f"expected boxes that read one map, got boxes that read {len(read)} maps; pass one box at a time"
            )
        (level,) = read
        score_maps = maps[level][0]
        rois = box_ops.to_rois(boxes, inclusive=self.pooling.inclusive)
        bins = self.pooling.bins(score_maps, rois, self.k, 1.0 / self.strides[level])
        return Votes(bins, score_maps.unflatten(1, (-1, self.k * self.k)), self.strides[level])

    @torch.no_grad()
    def rescale_deltas(self, scale: Tensor, shift: Tensor) -> None:
        """Change the box maps so that each delta becomes `delta * scale + shift`, both [rows, 4].

        The shift is exact only if every bin has a cell, since an empty bin votes 0. The released models do the same.
        """
        rescale_box_maps(self.box_maps, self.k, scale, shift)


def rescale_box_maps(layer: nn.Conv2d, k: int, scale: Tensor, shift: Tensor) -> None:
    """Change the layer of the box maps so that each delta becomes `delta * scale + shift`, both [rows, 4]."""
    scale, shift = (item.reshape(-1).repeat_interleave(k * k) for item in (scale, shift))
    assert layer.bias is not None
    layer.weight.mul_(scale[:, None, None, None])
    layer.bias.mul_(scale).add_(shift)
