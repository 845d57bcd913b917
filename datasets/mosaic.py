"""Mosaic: four samples in one image, around a random center.

An object appears beside other objects and on other backgrounds, and at about half of its size.
Source: Bochkovskiy et al. 2020, "YOLOv4", section 3.3. The range of the center is darknet's (`src/data.c`). There each
quarter shows a part of its image at full size; here it shows as much of its image as its shape allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from detector.datasets.crops import cropped, random_window
from detector.datasets.sample import Sample
from detector.ops import boxes as box_ops

MARGIN = 0.2  # the center is at least this fraction of the side away from the border
PARTS = 4


def make_mosaic(samples: Sequence[Sample], width: int, height: int, rng: np.random.Generator) -> Sample:
    """Return four samples as one of the given size. Seed, short side and id are those of the first, at the top left.

    The samples have no proposals. Raises ValueError for a size below 2 pixels, which has no four parts.
    """
    if len(samples) != PARTS or min(width, height) < 2:
        raise ValueError(
            f"expected 4 samples and sides of at least 2 pixels, got {len(samples)} samples for {width}x{height}"
        )
    assert all(sample.proposals is None for sample in samples)
    x, y = (
        min(max(1, round(side * position)), side - 1)
        for side, position in zip((width, height), rng.uniform(MARGIN, 1 - MARGIN, size=2).tolist(), strict=True)
    )
    quarters = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
    order = torch.empty(height, width, 3, dtype=torch.uint8)  # channels last in memory, as a decoded image
    canvas = order.permute(2, 0, 1)
    parts = []
    for sample, (left, top, right, bottom) in zip(samples, quarters, strict=True):
        part = _filling(sample, right - left, bottom - top, rng)
        canvas[:, top:bottom, left:right] = part.image
        shift = part.annotation.boxes.new_tensor((left, top, left, top))
        parts.append(replace(part.annotation, boxes=part.annotation.boxes + shift))
    joined = replace(
        samples[0].annotation,
        width=width,
        height=height,
        boxes=torch.cat([part.boxes for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        difficult=torch.cat([part.difficult for part in parts]),
        truncated=torch.cat([part.truncated for part in parts]),
        occluded=torch.cat([part.occluded for part in parts]),
    )
    return replace(samples[0], image=canvas, annotation=joined)


def _filling(sample: Sample, width: int, height: int, rng: np.random.Generator) -> Sample:
    """Return the largest random part of the sample with the aspect ratio of the given size, resized to this size."""
    item = sample.annotation
    scale = max(width / item.width, height / item.height)
    part_width = min(item.width, max(1, round(width / scale)))
    part_height = min(item.height, max(1, round(height / scale)))
    part = cropped(sample, random_window(item, part_width, part_height, rng))
    factors = item.boxes.new_tensor((width / part_width, height / part_height) * 2)
    boxes = box_ops.clip(part.annotation.boxes * factors, height, width)  # products may round to just beyond the border
    return replace(
        part,
        image=_resized(part.image, width, height),
        annotation=replace(part.annotation, width=width, height=height, boxes=boxes),
    )


def _resized(image: Tensor, width: int, height: int) -> Tensor:
    """Return the image [3, h, w] uint8 resized to [3, height, width] by averaging pixels."""
    return F.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]
