"""A dense grid of boxes: proposals that need no file and see nothing of the image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from detector.datasets.sample import Dataset


@lru_cache(maxsize=256)
def grid_boxes(
    height: int, width: int, scales: tuple[float, ...], aspects: tuple[float, ...], overlap: float
) -> Tensor:
    """Boxes [P, 4] float32 of every scale and aspect (height / width), evenly placed over the image.

    A scale is the square root of a box's area over that of the image's. Along each axis the boxes touch both borders
    and neighbours share at least `overlap` of their side.
    """
    parts = []
    for scale in scales:
        for aspect in aspects:
            side = scale * (height * width) ** 0.5
            box_height, box_width = min(height, side * aspect**0.5), min(width, side / aspect**0.5)
            tops = _starts(height, box_height, overlap)
            lefts = _starts(width, box_width, overlap)
            top, left = (part.reshape(-1) for part in torch.meshgrid(tops, lefts, indexing="ij"))
            parts.append(torch.stack((left, top, left + box_width, top + box_height), dim=1))
    return torch.cat(parts)


def _starts(length: int, side: float, overlap: float) -> Tensor:
    """Where boxes of one side begin along an axis."""
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
        annotation = self.dataset.annotations[index]
        return grid_boxes(annotation.height, annotation.width, self.scales, self.aspects, self.overlap)
