"""The Fast R-CNN head (Fast R-CNN, figure 1): RoI pooling, the backbone's tail, two sibling layers.

feature map --RoI pool 7x7--> tail (fc6, fc7 | res5 | two fc) --+--> class scores   [R, K + 1]
                                                                +--> box deltas     [R, K, 4]

With several maps (a feature pyramid) each RoI pools from the level for its size. All levels share the layers.

Two fully connected layers may read a map with fewer channels: a 1x1 convolution before the pooling reduces them once
per image. This shrinks the first layer, nearly the whole cost of a RoI, by the same factor (Light-Head R-CNN 3.1, FPN's
256 channels).

At test time RoIs that pool the same cells have equal predictions, so the tail runs once for them. The original did this
for boxes that are equal after rounding to a stride of 16 (fast-rcnn `lib/fast_rcnn/test.py`, DEDUP_BOXES). Here an
operator finds RoIs with exactly the same cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from detector.heads import LevelMaps
from detector.heads.levels import levels_of, pool_levels
from detector.ops import boxes as box_ops
from detector.structures import RoIPredictions

# (features [N, C, H, W], rois [R, 5], output_size, spatial_scale) -> [R, C, output_size, output_size]
Pooling = Callable[[Tensor, Tensor, int, float], Tensor]
# (features, rois, spatial_scale) -> indices [U] of RoIs that pool different cells, and each RoI's index [R] into these
Distinct = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


class FastRCNNHead(nn.Module):
    """RoI pooling, the backbone's tail, and two linear layers (Fast R-CNN, figure 1)."""

    def __init__(
        self,
        *,
        num_classes: int,
        reduce: nn.Module | None,
        tail: nn.Module,
        tail_channels: int,
        strides: Sequence[int],
        pooling: Pooling,
        distinct: Distinct | None,
        output_size: int,
        inclusive: bool,
        class_agnostic: bool,
    ) -> None:
        """`reduce` computes the pooled maps from the features; None: pool the features. `tail` maps pooled RoIs
        [R, C, output_size, output_size] to [R, tail_channels].

        `strides` are input pixels per cell of each map.
        `distinct` finds RoIs with different results of `pooling`, on one map; None: do not search.
        `inclusive`: `pooling` takes the last pixel of a box instead of its end (the published RoI pooling).
        """
        super().__init__()
        self.reduce = reduce
        self.tail = tail
        self.pooling = pooling
        self.distinct = distinct
        self.output_size = output_size
        self.strides = tuple(strides)
        self.inclusive = inclusive
        self.num_classes = num_classes
        self.scores = nn.Linear(tail_channels, num_classes + 1)
        self.deltas = nn.Linear(tail_channels, 4 * (1 if class_agnostic else num_classes))
        # Source: fast-rcnn models/VGG16/train.prototxt.
        nn.init.normal_(self.scores.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        nn.init.zeros_(self.scores.bias)
        nn.init.zeros_(self.deltas.bias)

    def maps(self, features: Sequence[Tensor]) -> LevelMaps:
        """Compute the maps [N, C, H_i, W_i] for pooling from the features of each level, once per image."""
        return [(level if self.reduce is None else self.reduce(level),) for level in features]

    def forward(self, maps: LevelMaps, boxes: list[Tensor]) -> RoIPredictions:
        """Return predictions for N lists of boxes [R_i, 4] in the pixels of the network's input, one list per image."""
        features = [level for (level,) in maps]
        rois = box_ops.to_rois(boxes, inclusive=self.inclusive)
        levels = levels_of(boxes, self.strides)
        index: Tensor | None = None
        # Not in training, where each RoI needs its own dropout, nor in graphs, whose sizes cannot depend on values.
        if self.distinct is not None and levels is None and not self.training and not torch.compiler.is_compiling():
            kept, index = self.distinct(features[0], rois, 1 / self.strides[0])
            rois = rois[kept]
        pooled = pool_levels(features, rois, levels, self.strides, self._pool)
        hidden = self.tail(pooled)
        predictions = RoIPredictions(self.scores(hidden), self.deltas(hidden).unflatten(1, (-1, 4)))
        return predictions if index is None else RoIPredictions(*(rows[index] for rows in predictions))

    def _pool(self, features: Tensor, rois: Tensor, spatial_scale: float) -> Tensor:
        return self.pooling(features, rois, self.output_size, spatial_scale)

    @torch.no_grad()
    def rescale_deltas(self, scale: Tensor, shift: Tensor) -> None:
        """Change the last layer so that each delta becomes `delta * scale + shift`, both [rows, 4]."""
        self.deltas.weight.mul_(scale.reshape(-1, 1))
        self.deltas.bias.mul_(scale.reshape(-1)).add_(shift.reshape(-1))


def reduction(in_channels: int, channels: int) -> nn.Sequential:
    """Return a 1x1 convolution with a ReLU: [N, in_channels, H, W] -> [N, channels, H, W]."""
    conv = nn.Conv2d(in_channels, channels, 1)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.Sequential(conv, nn.ReLU(inplace=True))
