"""Crops: boxes stay on their pixels and inside the image, and a picture with objects keeps one."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from detector.datasets.crops import Window, cropped, random_crop, random_window
from detector.datasets.sample import Sample
from tests.datasets.painted import make_sample, samples, seeds

ROUNDING = 1e-4  # pixels, of float32 coordinates below 256


def origin(part: Sample) -> torch.Tensor:
    """Return (x, y) of the first pixel in the uncut image, which its color tells."""
    return part.image[:2, 0, 0].float()


@given(samples(), st.floats(0.05, 1), seeds)
def test_every_kept_box_is_its_visible_part(sample: Sample, smallest: float, seed: int) -> None:
    part = random_crop(sample, smallest, np.random.default_rng(seed))
    item, whole = part.annotation, sample.annotation
    assert part.image.shape == (3, item.height, item.width)
    x, y = (int(value) for value in origin(part))
    assert torch.equal(part.image, sample.image[:, y : y + item.height, x : x + item.width])
    rows = item.labels - 1
    before = whole.boxes[rows]
    shift = torch.cat((origin(part), origin(part)))
    frame = torch.tensor([x, y, x + item.width, y + item.height], dtype=torch.float32)
    visible = torch.cat((torch.maximum(before[:, :2], frame[:2]), torch.minimum(before[:, 2:], frame[2:])), dim=1)
    torch.testing.assert_close(item.boxes + shift, visible, atol=ROUNDING, rtol=0)
    assert (item.boxes >= 0).all()
    assert (item.boxes <= torch.tensor([item.width, item.height] * 2)).all()
    assert torch.equal(item.difficult, whole.difficult[rows])
    assert torch.equal(item.occluded, whole.occluded[rows])
    is_cut = (visible != before).any(dim=1)
    assert (item.truncated | ~is_cut).all()


@given(samples(), st.floats(0.05, 1), seeds)
def test_a_kept_box_keeps_half_of_each_side_or_fills_the_window(sample: Sample, smallest: float, seed: int) -> None:
    item = random_crop(sample, smallest, np.random.default_rng(seed)).annotation
    before = sample.annotation.boxes[item.labels - 1]
    sides = item.boxes[:, 2:] - item.boxes[:, :2]
    half = (before[:, 2:] - before[:, :2]) / 2
    assert (sides >= torch.minimum(half, torch.tensor([item.width, item.height])) - ROUNDING).all()


@given(samples(), st.floats(0.05, 1), seeds)
def test_exactly_the_boxes_with_their_center_inside_are_kept(sample: Sample, smallest: float, seed: int) -> None:
    part = random_crop(sample, smallest, np.random.default_rng(seed))
    item, whole = part.annotation, sample.annotation
    left, top = (float(value) for value in origin(part))
    centers = (whole.boxes[:, :2] + whole.boxes[:, 2:]) / 2  # rounded to float32, so a center may lie on a border
    kept = [
        label
        for label, (x, y) in zip(whole.labels.tolist(), centers.tolist(), strict=True)
        if 0 <= x - left < item.width and 0 <= y - top < item.height
    ]
    assert item.labels.tolist() == kept
    assert part.proposals is not None
    assert torch.equal(part.proposals, item.boxes), "proposals follow the same rule"
    if len(whole.boxes):
        assert kept
    if not whole.difficult.all():
        assert not item.difficult.all(), "one of the objects that train is left"


@given(samples(), st.integers(1, 90), st.integers(1, 90), seeds)
def test_a_window_is_inside_the_image(sample: Sample, width: int, height: int, seed: int) -> None:
    item = sample.annotation
    width, height = min(width, item.width), min(height, item.height)
    window = random_window(item, width, height, np.random.default_rng(seed))
    assert (window.width, window.height) == (width, height)
    assert 0 <= window.left <= item.width - width
    assert 0 <= window.top <= item.height - height


def test_a_crop_gives_hand_computed_boxes() -> None:
    boxes = torch.tensor([[10.0, 10, 20, 20], [18, 12, 40, 16], [40, 40, 50, 50], [0, 0, 60, 44]])
    sample = make_sample(60, 50, boxes, torch.tensor([False, True, False, True]))
    item = cropped(sample, Window(left=15, top=5, width=30, height=20)).annotation
    assert item.labels.tolist() == [1, 2, 4], "the center (15, 15) is on the border, which belongs to the window"
    assert item.boxes.tolist() == [[0, 5, 5, 15], [3, 7, 25, 11], [0, 0, 30, 20]]
    assert item.difficult.tolist() == [False, True, True]
    assert item.truncated.tolist() == [True, False, True]
    assert torch.equal(sample.annotation.boxes, boxes), "nothing is changed in place"


def test_a_crop_copies_no_pixels() -> None:
    sample = make_sample(60, 50, torch.zeros(0, 4))
    part = cropped(sample, Window(15, 5, 30, 20))
    assert part.image.untyped_storage().data_ptr() == sample.image.untyped_storage().data_ptr()


def test_crops_reach_every_part_and_size() -> None:
    sample = make_sample(60, 50, torch.tensor([[0.0, 0, 8, 8], [52, 42, 60, 50]]))
    crops = [random_crop(sample, 0.3, np.random.default_rng(seed)) for seed in range(300)]
    widths = [part.annotation.width for part in crops]
    assert min(widths) <= 20
    assert max(widths) >= 58
    kept = [part.annotation.labels.tolist() for part in crops]
    assert all(kept.count([label]) > 75 for label in (1, 2)), "each object is as likely"
    lefts = {int(origin(part)[0]) for part in crops}
    assert min(lefts) == 0
    assert max(lefts) > 35
