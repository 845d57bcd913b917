"""Boxes around rotated rectangles and points."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.datasets.readers.shapes import bounding_box, rotated_box

SIDE = st.floats(1, 100)


def test_a_rotation_by_90_degrees_gives_hand_computed_boxes() -> None:
    assert rotated_box(10, 20, 4, 2, 90, about_centre=True) == pytest.approx((11, 19, 13, 23))
    assert rotated_box(10, 20, 4, 2, 90, about_centre=False) == pytest.approx((8, 20, 10, 24))


@given(SIDE, SIDE, SIDE, SIDE, st.floats(-360, 360))
def test_the_box_encloses_the_corners_tightly(x: float, y: float, w: float, h: float, degrees: float) -> None:
    x1, y1, x2, y2 = rotated_box(x, y, w, h, degrees, about_centre=True)
    angle = math.radians(degrees)
    assert x2 - x1 == pytest.approx(w * abs(math.cos(angle)) + h * abs(math.sin(angle)), abs=1e-6)
    assert y2 - y1 == pytest.approx(h * abs(math.cos(angle)) + w * abs(math.sin(angle)), abs=1e-6)
    assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx((x + w / 2, y + h / 2), abs=1e-6)


def test_the_box_around_points_keeps_nan() -> None:
    assert all(math.isnan(value) for value in bounding_box([(1, 2), (float("nan"), 3)]))
    assert bounding_box([(3, 9), (1, 2)]) == (1, 2, 3, 9)
