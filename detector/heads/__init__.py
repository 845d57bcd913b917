"""A head says of each RoI what it is and where it ends; everything else is outside and never asks which head ran."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from detector.structures import RoIPredictions

# For each of the features, what a head makes of it: the map that it pools from, or several.
LevelMaps = list[tuple[Tensor, ...]]


class Head(Protocol):
    def maps(self, features: Sequence[Tensor]) -> LevelMaps:
        """The part that is computed once per image, from features [N, C, H_i, W_i], the finest map first."""
        ...

    def __call__(self, maps: LevelMaps, boxes: list[Tensor]) -> RoIPredictions:
        """The part that is computed per RoI: predictions for N lists of boxes [R_i, 4] in input pixels."""
        ...

    def rescale_deltas(self, scale: Tensor, shift: Tensor) -> None:
        """Makes every delta `delta * scale + shift`, both [rows, 4], by the layer that it comes from."""
        ...


class Votes(NamedTuple):
    """How a head came to its class scores: bins that each read a map of their own."""

    bins: Tensor  # [R, K + 1, k, k]; their mean is the class score
    score_maps: Tensor  # [N, K + 1, k * k, H, W]
    stride: float  # input pixels per cell of the maps


@runtime_checkable
class VotingHead(Protocol):
    """A head whose votes can be drawn."""

    def votes(self, maps: LevelMaps, boxes: list[Tensor]) -> Votes:
        """The votes of N lists of boxes [R_i, 4] in input pixels, image by image; all of them read one map."""
        ...
