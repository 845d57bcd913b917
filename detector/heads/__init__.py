"""A head says of each RoI what it is and where it ends; everything else is outside and never asks which head ran."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from detector.structures import RoIPredictions


class Head(Protocol):
    def maps(self, features: Tensor) -> tuple[Tensor, ...]:
        """The part that is computed once per image, from features [N, C, H, W]."""
        ...

    def __call__(self, maps: tuple[Tensor, ...], boxes: list[Tensor]) -> RoIPredictions:
        """The part that is computed per RoI: predictions for N lists of boxes [R_i, 4] in input pixels."""
        ...

    def rescale_deltas(self, scale: Tensor, shift: Tensor) -> None:
        """Makes every delta `delta * scale + shift`, both [rows, 4], by the layer that it comes from."""
        ...
