"""The head of Light-Head R-CNN (figure 2 c): a thin map, position-sensitive RoIAlign, one fully connected layer.

features --+--15x1--> C_mid --1x15--+--ReLU--> 10 k^2 thin maps --PS RoIAlign k x k--> bins [R, 10, k, k]
           +--1x15--> C_mid --15x1--+

bins --fc 2048, ReLU--+--> class scores [R, K + 1]
                      +--> box deltas   [R, 1 or K, 4]

Fast R-CNN pools a map of many channels, so its first layer per RoI is large. R-FCN has no layer per RoI, but k^2 maps
for each class. Here the maps do not depend on the classes, and the layer per RoI reads only 10 values for each bin.

With several maps (a feature pyramid) each level has a thin map, from shared weights. A RoI pools from the level for its
size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detector.heads import LevelMaps
from detector.heads.levels import levels_of, pool_levels
from detector.ops import boxes as box_ops
from detector.structures import RoIPredictions

# (maps [N, k k D, H, W], rois [R, 5], k, spatial_scale) -> [R, D, k, k], each bin from its own map
Pooling = Callable[[Tensor, Tensor, int, float], Tensor]


class LargeSeparableConv2d(nn.Module):
    """A convolution with a large kernel as the sum of two pairs: k x 1 then 1 x k, and 1 x k then k x 1 (figure 3).

    A cell needs 2 k mid_channels (in_channels + out_channels) products, with a dense k x k kernel
    k^2 in_channels out_channels. There is no activation inside a pair.
    """

    def __init__(self, *, in_channels: int, mid_channels: int, out_channels: int, kernel: int) -> None:
        """`kernel` is k, an odd number."""
        super().__init__()
        half = kernel // 2

        def column(inputs: int, outputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, (kernel, 1), padding=(half, 0))

        def row(inputs: int, outputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, (1, kernel), padding=(0, half))

        self.columns_first = nn.Sequential(column(in_channels, mid_channels), row(mid_channels, out_channels))
        self.rows_first = nn.Sequential(row(in_channels, mid_channels), column(mid_channels, out_channels))

    def forward(self, features: Tensor) -> Tensor:
        """Return a map [N, out_channels, H, W] of features [N, in_channels, H, W]."""
        joined: Tensor = self.columns_first(features) + self.rows_first(features)
        return joined


class LightHead(nn.Module):
    """A large separable convolution, position-sensitive pooling and one layer per RoI (Light-Head R-CNN 3.2)."""

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        mid_channels: int,
        channels: int,
        kernel: int,
        fc_channels: int,
        strides: Sequence[int],
        k: int,
        pooling: Pooling,
        inclusive: bool,
        class_agnostic: bool,
    ) -> None:
        """`channels` are the values of each of the k x k bins of a RoI, `fc_channels` the width of the layer per RoI.

        `kernel` and `mid_channels` are those of the large separable convolution.
        `strides` are input pixels per cell of each map.
        `inclusive`: `pooling` takes the last pixel of a box instead of its end (R-FCN's published pooling).
        """
        super().__init__()
        self.k = k
        self.pooling = pooling
        self.inclusive = inclusive
        self.strides = tuple(strides)
        # Channel c = (value * k + row) * k + column, the order of the pooling.
        self.thin = LargeSeparableConv2d(
            in_channels=in_channels, mid_channels=mid_channels, out_channels=channels * k * k, kernel=kernel
        )
        self.fc = nn.Linear(channels * k * k, fc_channels)
        self.scores = nn.Linear(fc_channels, num_classes + 1)
        self.deltas = nn.Linear(fc_channels, 4 * (1 if class_agnostic else num_classes))
        # The last two layers start as in the released code, github.com/zengarden/light_head_rcnn. The others keep the
        # variance of their input. The released 0.01 is for 2,048 channels; with few channels it starts near zero.
        for layer in self.thin.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
        nn.init.kaiming_normal_(self.fc.weight, nonlinearity="relu")
        nn.init.normal_(self.scores.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        for name, bias in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(bias)

    def maps(self, features: Sequence[Tensor]) -> LevelMaps:
        """Return the thin map [N, channels k k, H, W] of each map [N, C, H, W] in features."""
        return [(F.relu(self.thin(level), inplace=True),) for level in features]

    def forward(self, maps: LevelMaps, boxes: list[Tensor]) -> RoIPredictions:
        """Return predictions for N lists of boxes [R_i, 4] in the pixels of the network's input, one list per image."""
        thin = [level for (level,) in maps]
        rois = box_ops.to_rois(boxes, inclusive=self.inclusive)
        pooled = pool_levels(thin, rois, levels_of(boxes, self.strides), self.strides, self._pool)
        hidden = F.relu(self.fc(pooled.flatten(1)), inplace=True)  # [R, fc_channels]
        return RoIPredictions(self.scores(hidden), self.deltas(hidden).unflatten(1, (-1, 4)))

    def _pool(self, maps: Tensor, rois: Tensor, spatial_scale: float) -> Tensor:
        return self.pooling(maps, rois, self.k, spatial_scale)

    @torch.no_grad()
    def rescale_deltas(self, scale: Tensor, shift: Tensor) -> None:
        """Change the last layer so that each delta becomes `delta * scale + shift`, both [rows, 4]."""
        self.deltas.weight.mul_(scale.reshape(-1, 1))
        self.deltas.bias.mul_(scale.reshape(-1)).add_(shift.reshape(-1))
