"""The choice of the map that each RoI reads, and pooling from several maps (Feature Pyramid Networks 4.2, equation 1).

    k = floor(4 + log2(sqrt(width x height) / 224))

A RoI with a side of 224 pixels, the input size of ImageNet classifiers, reads the map of stride 16 = 2^4. A RoI with
half this side reads the map of half this stride.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

CANONICAL_SIZE, CANONICAL_STRIDE = 224, 16
Maps = TypeVar("Maps", Tensor, tuple[Tensor, ...])


def levels_of(boxes: Sequence[Tensor], strides: Sequence[int]) -> Tensor | None:
    """Return the index [R] of the map that each RoI reads; None if there is one map only.

    `boxes` are N lists [R_i, 4] in input pixels, one per image. `strides` double from map to map. RoIs that are too
    small or too large for all maps read the first or the last map.
    """
    if len(strides) == 1:
        return None
    joined = torch.cat([*boxes])
    area = (joined[:, 2:] - joined[:, :2]).clamp(min=0).prod(dim=1)
    # 1e-6 makes sizes exactly between two levels round up on every device. Source: torchvision `ops/poolers.py`.
    level = torch.floor(torch.log2(area.sqrt() / CANONICAL_SIZE) + math.log2(CANONICAL_STRIDE / strides[0]) + 1e-6)
    return level.clamp(0, len(strides) - 1).long()


def pool_levels(
    maps: Sequence[Maps],
    rois: Tensor,
    levels: Tensor | None,
    strides: Sequence[int],
    pool: Callable[[Maps, Tensor, float], Tensor],
) -> Tensor:
    """Return `pool(map, rois, spatial_scale)` of rois [R, 5], each on the map of its level, in the order of the RoIs.

    `levels` is the result of `levels_of`. The maps [N, C, H_i, W_i], or tuples of maps, have the same channels on every
    level. A cell of map i is `strides[i]` input pixels.
    """
    if levels is None:
        return pool(maps[0], rois, 1 / strides[0])
    parts = []
    for index, (features, stride) in enumerate(zip(maps, strides, strict=True)):
        parts.append(pool(features, rois[(levels == index).nonzero().squeeze(1)], 1 / stride))
    # Compute each RoI's row in the joined parts from counts only: an exported graph does not know the sizes of parts.
    on_level = levels[:, None] == torch.arange(len(strides), device=levels.device)  # [R, L]
    count = on_level.sum(dim=0)
    before = on_level.cumsum(dim=0).gather(1, levels[:, None]).squeeze(1) - 1
    return torch.cat(parts)[before + (count.cumsum(dim=0) - count)[levels]]
