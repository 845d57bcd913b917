"""Random crops of a sample: its pixels, boxes and proposals.

A window contains the center of a random object, so a picture with objects never loses all of them (Detectron2,
`gen_crop_transform_with_instance`). A box is kept if its center is inside the window, and is clipped (SSD, section
2.2). So of each side of a kept box at least half is visible, or as much as fills the window.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from detector.datasets.sample import Annotation, Sample
from detector.ops import boxes as box_ops


class Window(NamedTuple):
    """A part of an image, in whole pixels."""

    left: int
    top: int
    width: int
    height: int


def random_crop(sample: Sample, smallest: float, rng: np.random.Generator) -> Sample:
    """Return a random part of the sample. Its sides are `smallest` to 1 times those of the image, each at random.

    Source: Detectron2, `RandomCrop` with `relative_range`.
    """
    width, height = (
        max(1, round(side * fraction))
        for side, fraction in zip(
            (sample.annotation.width, sample.annotation.height), rng.uniform(smallest, 1, size=2).tolist(), strict=True
        )
    )
    return cropped(sample, random_window(sample.annotation, width, height, rng))


def random_window(annotation: Annotation, width: int, height: int, rng: np.random.Generator) -> Window:
    """Return a random window of the given size, which is at most that of the image.

    It contains the center of a random object, if there is one: of one that is not difficult, if there is one.
    """
    easy = annotation.boxes[~annotation.difficult]
    boxes = easy if len(easy) else annotation.boxes
    center: list[float] | None = None
    if len(boxes):
        center = _centers(boxes[int(rng.integers(len(boxes)))]).tolist()
    starts = []
    for axis, (size, side) in enumerate(((width, annotation.width), (height, annotation.height))):
        first, last = 0, side - size
        if center is not None:
            pixel = min(max(int(center[axis]), 0), side - 1)
            first, last = max(first, pixel - size + 1), min(last, pixel)
        starts.append(int(rng.integers(first, last + 1)))
    return Window(starts[0], starts[1], width, height)


def cropped(sample: Sample, window: Window) -> Sample:
    """Return the part of the sample in the window. Its image is a view of the sample's image.

    A box with its center in the window is kept and clipped, and is `truncated` if that cuts it. Proposals too.
    """
    item = sample.annotation.select(_inside(sample.annotation.boxes, window))
    boxes = _shifted(item.boxes, window)
    clipped = box_ops.clip(boxes, window.height, window.width)
    proposals = sample.proposals
    if proposals is not None:
        proposals = _shifted(proposals[_inside(proposals, window)], window)
        proposals = box_ops.clip(proposals, window.height, window.width)
    return replace(
        sample,
        image=sample.image[:, window.top : window.top + window.height, window.left : window.left + window.width],
        annotation=replace(
            item,
            width=window.width,
            height=window.height,
            boxes=clipped,
            truncated=item.truncated | (clipped != boxes).any(dim=-1),
        ),
        proposals=proposals,
    )


def _inside(boxes: Tensor, window: Window) -> Tensor:
    """Return a mask [N]: the boxes [N, 4] with their center in the window."""
    low = boxes.new_tensor((window.left, window.top))
    high = low + low.new_tensor((window.width, window.height))
    centers = _centers(boxes)
    return ((centers >= low) & (centers < high)).all(dim=-1)


def _shifted(boxes: Tensor, window: Window) -> Tensor:
    """Return the boxes [N, 4] in the pixels of the window."""
    return boxes - boxes.new_tensor((window.left, window.top) * 2)


def _centers(boxes: Tensor) -> Tensor:
    """Return the centers [..., 2] (x, y) of boxes [..., 4]."""
    return (boxes[..., :2] + boxes[..., 2:]) * 0.5
