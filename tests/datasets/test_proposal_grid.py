"""The dense grid: inside the image, covering it, and reused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.datasets.proposal_grid import GridProposals, grid_boxes
from detector.datasets.synthetic import SyntheticDataset
from detector.ops.boxes import area, iou


@settings(deadline=None)
@given(st.integers(20, 300), st.integers(20, 300), st.floats(0.05, 1.2), st.floats(0.3, 3), st.floats(0, 0.9))
def test_boxes_lie_inside_and_cover_the_image(
    height: int, width: int, scale: float, aspect: float, overlap: float
) -> None:
    boxes = grid_boxes(height, width, (scale,), (aspect,), overlap)
    x1, y1, x2, y2 = boxes.unbind(1)
    assert boxes.dtype == torch.float32
    assert min(x1.min(), y1.min()) >= 0
    assert x2.max() <= width
    assert y2.max() <= height
    assert (x2 > x1).all()
    assert (y2 > y1).all()
    for low, high, length in ((x1, x2, width), (y1, y2, height)):
        assert low.min() < 1e-3
        assert high.max() > length - 1e-3
        starts, side = low.unique(), float((high - low)[0])
        assert (starts.diff() <= (1 - overlap) * side + 1e-2).all(), "neighbours overlap by at least the given share"


def test_one_shape_gives_hand_computed_boxes() -> None:
    # Area 0.25 of 40x10 pixels: side 10. Aspect 1 gives 10x10 boxes at steps of 5 along the width.
    boxes = grid_boxes(10, 40, (0.5,), (1.0,), 0.5)
    assert boxes.tolist() == [[x, 0, x + 10, 10] for x in range(0, 31, 5)]


def test_areas_follow_the_scales() -> None:
    boxes = grid_boxes(100, 100, (0.1, 0.4), (0.5, 2.0), 0.5)
    assert set((area(boxes) / 1e4).sqrt().mul(1000).round().int().tolist()) == {100, 400}


def test_a_grid_covers_nearly_all_objects() -> None:
    dataset = SyntheticDataset("test", num_images=20, height=96, width=128, seed=0)
    grid = GridProposals(dataset, (0.1, 0.15, 0.22, 0.32, 0.47, 0.7), (0.5, 1.0, 2.0), 0.75)
    found = [iou(item.boxes, grid.boxes(index)).max(dim=1).values for index, item in enumerate(dataset.annotations)]
    assert (torch.cat(found) > 0.5).float().mean() > 0.95
    assert grid.boxes(0) is grid.boxes(1), "all images of one size share a grid"


@pytest.mark.parametrize(("scale", "aspect", "overlap"), [(0, 1, 0.5), (0.5, -1, 0.5), (0.5, 1, 1.0), (0.5, 1, -0.1)])
def test_impossible_grids_are_refused(scale: float, aspect: float, overlap: float) -> None:
    with pytest.raises(ValueError, match="expected positive scales and aspects"):
        grid_boxes(10, 10, (scale,), (aspect,), overlap)
