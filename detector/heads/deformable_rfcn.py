"""The head of Deformable R-FCN (Deformable Convolutional Networks, figure 4): R-FCN whose bins move with the object.

                        +--1x1--> k^2 (K + 1) score maps -----------------+
                        |                                                 v
                        +--1x1--> 2 k^2 (K + 1) maps --PS RoI pool--> deformable PS RoI pool, vote--> class scores
res5 --1x1, ReLU-- 1024-+                                  offsets
                        +--1x1--> 2 k^2 (1 or K) maps --PS RoI pool-> deformable PS RoI pool, vote--> box deltas
                        |                                                 ^
                        +--1x1--> k^2 4 (1 or K) box maps ----------------+

The offset layers start at 0, so at first the bins are at their places. Every class has its own offsets (figure 4). The
four deltas of a box share theirs, as in the released code.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detector.heads import LevelMaps
from detector.heads.levels import levels_of, pool_levels
from detector.heads.rfcn import rescale_box_maps
from detector.ops import boxes as box_ops
from detector.ops import deform_ps_roi_pool
from detector.structures import RoIPredictions


class DeformableRFCNHead(nn.Module):
    """Score maps, offset maps, deformable position-sensitive pooling and a vote (section 2.2)."""

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        channels: int,
        strides: Sequence[int],
        k: int,
        offset_scale: float,
        sampling_ratio: int,
        class_agnostic: bool,
    ) -> None:
        """`channels` is the width of the 1x1 reduction, `k` the number of bins along a side.

        `strides` are input pixels per cell of each map. `offset_scale` is the paper's gamma: an offset of 1 moves a bin
        by this fraction of the RoI's size. A bin has `sampling_ratio` samples per axis.
        """
        super().__init__()
        self.k = k
        self.strides = tuple(strides)
        self.pool = partial(deform_ps_roi_pool, output_size=k, sampling_ratio=sampling_ratio)
        self.offset_scale = offset_scale
        box_rows = 1 if class_agnostic else num_classes
        self.reduce = nn.Conv2d(in_channels, channels, 1)
        # Channel c = (class * k + row) * k + column, so that the maps of one class are contiguous.
        self.score_maps = nn.Conv2d(channels, k * k * (num_classes + 1), 1)
        self.box_maps = nn.Conv2d(channels, k * k * 4 * box_rows, 1)
        # Channel c = ((class * 2 + axis) * k + row) * k + column; axis 0 is to the right, axis 1 down.
        self.score_offsets = nn.Conv2d(channels, k * k * 2 * (num_classes + 1), 1)
        self.box_offsets = nn.Conv2d(channels, k * k * 2 * box_rows, 1)
        for layer in (self.reduce, self.score_maps, self.box_maps):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        # Section 3.2; the learning rate of these layers is that of the others (the paper's beta is 1 for R-FCN).
        for layer in (self.score_offsets, self.box_offsets):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def maps(self, features: Sequence[Tensor]) -> LevelMaps:
        """Return score, score offset, box and box offset maps [N, k k D, H, W] of each map [N, C, H, W]."""
        layers = (self.score_maps, self.score_offsets, self.box_maps, self.box_offsets)
        hidden = [F.relu(self.reduce(level), inplace=True) for level in features]
        return [tuple(layer(level) for layer in layers) for level in hidden]

    def forward(self, maps: LevelMaps, boxes: list[Tensor]) -> RoIPredictions:
        """Return votes for N lists of boxes [R_i, 4] in the pixels of the network's input, one list per image."""
        rois = box_ops.to_rois(boxes, inclusive=True)
        levels = levels_of(boxes, self.strides)
        scores, boxed = [level[:2] for level in maps], [level[2:] for level in maps]
        logits, deltas = (pool_levels(kind, rois, levels, self.strides, self._vote) for kind in (scores, boxed))
        return RoIPredictions(logits, deltas.unflatten(1, (-1, 4)))

    def _vote(self, maps: tuple[Tensor, ...], rois: Tensor, spatial_scale: float) -> Tensor:
        evidence, offset_maps = maps
        offsets = self.pool(offset_maps, rois, None, spatial_scale=spatial_scale)  # [R, 2 G, k, k]
        bins = self.pool(evidence, rois, offsets, spatial_scale=spatial_scale, offset_scale=self.offset_scale)
        return bins.mean(dim=(2, 3))

    @torch.no_grad()
    def rescale_deltas(self, scale: Tensor, shift: Tensor) -> None:
        """Change the box maps so that each delta becomes `delta * scale + shift`, both [rows, 4].

        The shift is exact only if every bin has a sample on the map.
        """
        rescale_box_maps(self.box_maps, self.k, scale, shift)
