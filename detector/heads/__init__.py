"""Interface of a head: it predicts class scores and box deltas for each RoI. All other parts work with any head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from detector.structures import RoIPredictions

# For each feature map, the maps that the head computes from it, for pooling.
LevelMaps = list[tuple[Tensor, ...]]


class Head(Protocol):
    """Interface of a head (an nn.Module)."""

    def maps(self, features: Sequence[Tensor]) -> LevelMaps:
        """Compute the part that runs once per image, from features [N, C, H_i, W_i], the finest map first."""
        ...

    def __call__(self, maps: LevelMaps, boxes: list[Tensor]) -> RoIPredictions:
        """Compute the part that runs per RoI: predictions for N lists of boxes [R_i, 4] in input pixels."""
        ...

    def rescale_deltas(self, scale: Tensor, shift: Tensor) -> None:
        """Change the last layer so that each delta becomes `delta * scale + shift`, both [rows, 4]."""
        ...


class Votes(NamedTuple):
    """The bins of a head whose mean is the class score. Each bin reads its own map."""

    bins: Tensor  # [R, K + 1, k, k]; their mean is the class score
    score_maps: Tensor  # [N, K + 1, k * k, H, W]
    stride: float  # input pixels per cell of the maps


@runtime_checkable
class VotingHead(Protocol):
    """Interface of a head with votes, for drawing them."""

    def votes(self, maps: LevelMaps, boxes: list[Tensor]) -> Votes:
        """Return the votes of N lists of boxes [R_i, 4] in input pixels, one list per image. All boxes read one map."""
        ...
