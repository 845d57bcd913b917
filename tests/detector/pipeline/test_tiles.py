"""Tiles cover a picture, and detections in them are joined without seams."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detector.pipeline.tiles import detect_in_tiles, tiles_of
from detector.postprocess import Postprocess
from detector.structures import Detections

HEIGHT, WIDTH, SIDE = 200, 240, 80
SMALLEST_SEEN = 60  # side of objects that the fake detector finds in the whole picture


@given(st.integers(1, 900), st.integers(1, 900), st.integers(32, 400), st.floats(0, 0.8))
def test_tiles_cover_the_picture_and_overlap(height: int, width: int, side: int, overlap: float) -> None:
    tiles = tiles_of(height, width, side, overlap)
    covered = torch.zeros(height, width, dtype=torch.bool)
    for tile in tiles:
        assert 0 <= tile.left < tile.right <= width
        assert 0 <= tile.top < tile.bottom <= height
        assert (tile.right - tile.left, tile.bottom - tile.top) == (min(side, width), min(side, height))
        covered[tile.top : tile.bottom, tile.left : tile.right] = True
    assert covered.all()
    lefts = sorted({tile.left for tile in tiles})
    assert all(left + side - after >= overlap * side - 1 for left, after in itertools.pairwise(lefts))


def picture() -> Tensor:
    """A picture whose pixels state their place: red is x, green is y."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return torch.stack((x, y, torch.zeros_like(x))).to(torch.uint8)


class FakeDetector:
    """Finds the visible part of each object, in the whole picture only that of large objects."""

    def __init__(self, objects: list[list[float]]) -> None:
        self.objects = torch.tensor(objects).reshape(-1, 4)
        self.num_calls = 0

    def __call__(self, images: Sequence[Tensor]) -> list[Detections]:
        self.num_calls += 1
        return [self.seen(image) for image in images]

    def seen(self, image: Tensor) -> Detections:
        left, top, height, width = int(image[0, 0, 0]), int(image[1, 0, 0]), image.shape[1], image.shape[2]
        boxes = self.objects - torch.tensor([left, top, left, top])
        if (height, width) == (HEIGHT, WIDTH):
            boxes = boxes[boxes[:, 2] - boxes[:, 0] >= SMALLEST_SEEN]
        visible = boxes.clone()
        visible[:, 0::2] = boxes[:, 0::2].clamp(0, width)
        visible[:, 1::2] = boxes[:, 1::2].clamp(0, height)
        visible = visible[(visible[:, 2] > visible[:, 0]) & (visible[:, 3] > visible[:, 1])]
        return Detections(visible, torch.full((len(visible),), 0.9), torch.ones(len(visible), dtype=torch.int64))


PROTOCOL = Postprocess(score_threshold=0.05, nms_iou=0.5, max_per_image=100)


@pytest.mark.parametrize("overlap", [0.3, 0.5])
def test_every_object_is_found_once_and_whole(overlap: float) -> None:
    small = [[x, y, x + 18.0, y + 20.0] for y in range(4, 170, 29) for x in range(3, 215, 25)]
    detector = FakeDetector(small)
    found = detect_in_tiles(picture(), SIDE, overlap, detector, PROTOCOL)
    assert sorted(found.boxes.tolist()) == sorted(small)
    assert detector.num_calls > 9


def test_the_largest_number_of_detections_counts_for_each_tile() -> None:
    small = [[x, y, x + 8.0, y + 8.0] for y in range(2, 190, 20) for x in range(2, 230, 17)]
    detector = FakeDetector(small)
    found = detect_in_tiles(picture(), SIDE, 0.25, detector, PROTOCOL)
    assert len(found) == len(small) > PROTOCOL.max_per_image
    few = detect_in_tiles(picture(), SIDE, 0.25, detector, replace(PROTOCOL, max_per_image=2))
    assert len(few) == 2 * len(tiles_of(HEIGHT, WIDTH, SIDE, 0.25))


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_tiles_are_detected_in_batches(batch_size: int) -> None:
    small = [[x, y, x + 18.0, y + 20.0] for y in range(4, 170, 29) for x in range(3, 215, 25)]
    detector = FakeDetector(small)
    found = detect_in_tiles(picture(), SIDE, 0.3, detector, PROTOCOL, batch_size)
    assert sorted(found.boxes.tolist()) == sorted(small)
    assert detector.num_calls == 1 + math.ceil(len(tiles_of(HEIGHT, WIDTH, SIDE, 0.3)) / batch_size)


def test_objects_larger_than_the_overlap_come_from_the_whole_picture() -> None:
    large = [[10.0, 10, 190, 120], [100.0, 130, 170, 195]]
    found = detect_in_tiles(picture(), SIDE, 0.25, FakeDetector(large), PROTOCOL)
    assert sorted(found.boxes.tolist()) == sorted(large)


def test_objects_at_the_border_of_the_picture_stay() -> None:
    border = [[0.0, 0, 15, 15], [225.0, 185, 240, 200], [0.0, 185, 12, 200]]
    found = detect_in_tiles(picture(), SIDE, 0.25, FakeDetector(border), PROTOCOL)
    assert sorted(found.boxes.tolist()) == sorted(border)


def test_a_picture_of_one_tile_is_detected_once() -> None:
    detector = FakeDetector([[10.0, 10, 90, 90]])
    found = detect_in_tiles(picture(), 300, 0.25, detector, PROTOCOL)
    assert detector.num_calls == 1
    assert found.boxes.tolist() == [[10, 10, 90, 90]]
