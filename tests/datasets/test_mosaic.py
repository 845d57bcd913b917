"""Mosaic: each box stays on its object, in its quarter; no pixel is left unset."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detector.datasets.mosaic import MARGIN, make_mosaic
from detector.datasets.sample import Sample
from tests.datasets.painted import make_sample, samples, seeds

four = st.lists(samples().map(lambda sample: replace(sample, proposals=None)), min_size=4, max_size=4)


def scene(number: int, width: int, height: int) -> Sample:
    """Return a sample with four objects apart from each other, each painted in its own color, on black.

    The color of object i of scene number n is (40 n + 40, 60 i + 60, 200), and its label is 4 n + i + 1.
    """
    w, h = width // 2, height // 2
    corners = [(x * w + w // 8, y * h + h // 8) for y in (0, 1) for x in (0, 1)]
    boxes = torch.tensor([(x, y, x + w * 3 // 4, y + h * 3 // 4) for x, y in corners])
    sample = make_sample(width, height, boxes)
    image = torch.zeros(height, width, 3, dtype=torch.uint8)
    for index, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        image[y1:y2, x1:x2] = torch.tensor([40 * number + 40, 60 * index + 60, 200], dtype=torch.uint8)
    labels = sample.annotation.labels + 4 * number
    return replace(sample, image=image.permute(2, 0, 1), annotation=replace(sample.annotation, labels=labels))


@pytest.mark.parametrize(("width", "height"), [(200, 160), (90, 160)])
def test_the_pixels_under_a_box_are_those_of_its_object(width: int, height: int) -> None:
    parts = [scene(0, 120, 120), scene(1, 64, 200), scene(2, 300, 80), scene(3, 100, 90)]
    for seed in range(30):
        joined = make_mosaic(parts, width, height, np.random.default_rng(seed))
        assert joined.image.shape == (3, height, width)
        painted = torch.zeros(height, width, dtype=torch.bool)
        for label, box in zip(joined.annotation.labels.tolist(), joined.annotation.boxes.tolist(), strict=True):
            number, index = divmod(label - 1, 4)
            x, y = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
            assert joined.image[:, y, x].tolist() == [40 * number + 40, 60 * index + 60, 200]
            left, top, right, bottom = (round(value) for value in box)
            painted[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = True
        centers = joined.image[2] == 200
        lost = centers & ~painted  # objects with their center outside the visible part lose their box
        assert lost.float().mean() < 0.25


@given(four, st.integers(2, 80), st.integers(2, 80), seeds)
def test_boxes_are_inside_and_every_part_with_objects_keeps_one(
    parts: list[Sample], width: int, height: int, seed: int
) -> None:
    joined = make_mosaic(parts, width, height, np.random.default_rng(seed))
    item = joined.annotation
    assert (item.width, item.height) == (width, height)
    assert joined.image.shape == (3, height, width)
    assert (item.boxes >= 0).all()
    assert (item.boxes <= torch.tensor([width, height] * 2)).all()
    assert (item.boxes[:, 2:] > item.boxes[:, :2]).all()
    assert len(item.boxes) >= sum(len(part.annotation.boxes) > 0 for part in parts)
    assert len(item.labels) == len(item.difficult) == len(item.truncated) == len(item.occluded) == len(item.boxes)
    assert (joined.seed, joined.short_side) == (parts[0].seed, parts[0].short_side)


def test_the_parts_meet_at_a_random_center_and_leave_no_gap() -> None:
    colors = (50, 100, 150, 200)
    plain = make_sample(40, 30, torch.zeros(0, 4))
    parts = [replace(plain, image=torch.full((3, 30, 40), color, dtype=torch.uint8)) for color in colors]
    centers = set()
    for seed in range(50):
        image = make_mosaic(parts, 100, 60, np.random.default_rng(seed)).image
        x, y = int((image[0, 0] == colors[0]).sum()), int((image[0, :, 0] == colors[0]).sum())
        expected = torch.empty(60, 100, dtype=torch.uint8)
        expected[:y, :x], expected[:y, x:], expected[y:, :x], expected[y:, x:] = colors
        assert torch.equal(image, expected.expand(3, -1, -1))
        assert 100 * MARGIN - 1 <= x <= 100 * (1 - MARGIN) + 1
        assert 60 * MARGIN - 1 <= y <= 60 * (1 - MARGIN) + 1
        centers.add((x, y))
    assert len(centers) > 40


def test_a_size_without_four_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 4 samples and sides of at least 2 pixels, got 4 samples for 1x9"):
        make_mosaic([make_sample(4, 4, torch.zeros(0, 4))] * 4, 1, 9, np.random.default_rng(0))
