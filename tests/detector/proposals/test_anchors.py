"""The published anchors, and their grid."""

import torch

from detector.proposals.anchors import anchor_grid, base_anchors

SCALES, ASPECTS = (8.0, 16.0, 32.0), (0.5, 1.0, 2.0)
# py-faster-rcnn lib/rpn/generate_anchors.py prints these, inclusive; 1 is added to the maxima in half-open boxes.
PUBLISHED = [
    (-84, -40, 99, 55),
    (-176, -88, 191, 103),
    (-360, -184, 375, 199),
    (-56, -56, 71, 71),
    (-120, -120, 135, 135),
    (-248, -248, 263, 263),
    (-36, -80, 51, 95),
    (-80, -168, 95, 183),
    (-168, -344, 183, 359),
]


def test_the_nine_published_anchors_exactly() -> None:
    expected = [(x1, y1, x2 + 1, y2 + 1) for x1, y1, x2, y2 in PUBLISHED]
    assert [tuple(row) for row in base_anchors(16, SCALES, ASPECTS).tolist()] == expected


def test_the_grid_is_ordered_by_row_column_and_anchor() -> None:
    base = base_anchors(16, SCALES, ASPECTS)
    grid = anchor_grid(base, 3, 4, (16, 16))
    assert grid.shape == (3 * 4 * 9, 4)
    for row, column, anchor in ((0, 0, 0), (0, 1, 0), (2, 3, 8), (1, 2, 4)):
        shift = torch.tensor([column, row, column, row]) * 16
        assert torch.equal(grid[(row * 4 + column) * 9 + anchor], base[anchor] + shift)


def test_an_empty_map_has_no_anchors() -> None:
    assert anchor_grid(base_anchors(16, SCALES, ASPECTS), 0, 5, (16, 16)).shape == (0, 4)


def test_thin_anchors_have_an_area() -> None:
    """At stride 8 the published rounding gives a width of 0 for the aspect 1000."""
    base = base_anchors(8, (1.0, 4.0), (0.0005, 1000.0))
    assert torch.minimum(base[:, 2] - base[:, 0], base[:, 3] - base[:, 1]).tolist() == [1.0, 4.0, 1.0, 4.0]
