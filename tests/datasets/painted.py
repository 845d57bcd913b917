"""Samples whose pixels show where they come from."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from detector.datasets.sample import Annotation, Sample


def make_sample(width: int, height: int, boxes: Tensor, difficult: Tensor | None = None) -> Sample:
    """Return a sample whose pixels are (x, y, 0), for sides up to 256. Box number i has label i + 1."""
    count = len(boxes)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return Sample(
        image=torch.stack((x, y, torch.zeros_like(x)), dim=-1).to(torch.uint8).permute(2, 0, 1),
        annotation=Annotation(
            image_id="painted",
            width=width,
            height=height,
            boxes=boxes.reshape(-1, 4).float(),
            labels=torch.arange(1, count + 1),
            difficult=torch.zeros(count, dtype=torch.bool) if difficult is None else difficult,
            truncated=torch.zeros(count, dtype=torch.bool),
            occluded=torch.arange(count) % 2 == 1,
        ),
        proposals=None,
        seed=7,
        short_side=100,
    )


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """Draw samples with 0 to 5 boxes anywhere in the image, some difficult. The proposals are the same boxes."""
    width, height = draw(st.integers(2, 90)), draw(st.integers(2, 90))
    boxes, difficult = [], []
    for _ in range(draw(st.integers(0, 5))):
        sides = []
        for side in (width, height):
            low = draw(st.integers(0, 7 * side - 1))  # in sevenths of a pixel, so that float32 rounds
            sides.append((low / 7, draw(st.integers(low + 1, 7 * side)) / 7))
        (x1, x2), (y1, y2) = sides
        boxes.append((x1, y1, x2, y2))
        difficult.append(draw(st.booleans()))
    made = make_sample(width, height, torch.tensor(boxes), torch.tensor(difficult, dtype=torch.bool))
    return Sample(made.image, made.annotation, made.annotation.boxes.clone(), made.seed, made.short_side)


seeds = st.integers(0, 2**32)
