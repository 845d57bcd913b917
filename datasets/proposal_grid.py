"""A dense grid of boxes: proposals that need no file and do not depend on the image's content."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from detector.datasets.sample import Dataset
from detector.ops import boxes as box_ops


@lru_cache(maxsize=256)
def grid_boxes(
    height: int, width: int, scales: tuple[float, ...], aspects: tuple[float, ...], overlap: float
) -> Tensor:
    """Return boxes [P, 4] float32 of every scale and aspect (height / width), evenly spaced over the image.

    A scale is the square root of box area / image area. Along each axis the boxes touch both borders, and neighbours
    overlap by at least `overlap` of their side. A box longer than the image is cut to its size.

    Raises ValueError for a scale or aspect that is not positive, or an overlap outside [0, 1).
    """
    if not (0 <= overlap < 1 and min(scales, default=0) > 0 and min(aspects, default=0) > 0):
        raise ValueError(
            f"grid of scales {scales}, aspects {aspects}, overlap {overlap}: expected positive scales and aspects and "
            "an overlap of at least 0 and below 1"
        )
    parts = []
    for scale in scales:
        for aspect in aspects:
            side = scale * (height * width) ** 0.5
            box_height, box_width = min(height, side * aspect**0.5), min(width, side / aspect**0.5)
            tops = _starts(height, box_height, overlap)
            lefts = _starts(width, box_width, overlap)
            top, left = (part.reshape(-1) for part in torch.meshgrid(tops, lefts, indexing="ij"))
            parts.append(torch.stack((left, top, left + box_width, top + box_height), dim=1))
    return box_ops.clip(torch.cat(parts), height, width)  # sums may round to just beyond the border


def _starts(length: int, side: float, overlap: float) -> Tensor:
    """Return the start positions of boxes with one side length along an axis."""
    free = length - side
    count = 1 + (0 if free <= 0 else -(-free // ((1 - overlap) * side)))
    return torch.linspace(0, max(0.0, free), int(count)) if count > 1 else torch.tensor([max(0.0, free) / 2])


@dataclass(frozen=True, slots=True)
class GridProposals:
    """The grid of each image of a dataset."""

    dataset: Dataset
    scales: tuple[float, ...]
    aspects: tuple[float, ...]
    overlap: float

    def boxes(self, index: int) -> Tensor:
        """Return the boxes [P, 4] of one image. Images of the same size share one tensor."""
        annotation = self.dataset.annotations[index]
        return grid_boxes(annotation.height, annotation.width, self.scales, self.aspects, self.overlap)
