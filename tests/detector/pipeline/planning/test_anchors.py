"""Anchors fitted to boxes with known clusters."""

import numpy as np
import pytest

from detector.pipeline.planning.anchors import (
    ENOUGH,
    AnchorShapes,
    fit_anchors,
    fit_pyramid_anchors,
    placed_recall,
    shape_recall,
)
from detector.proposals.anchors import base_anchors


def test_boxes_of_one_shape_need_one_anchor() -> None:
    shapes = fit_anchors(np.full(50, 32.0), np.full(50, 64.0), 16)
    assert shapes.aspects == (2.0,)
    assert shapes.scales == (pytest.approx(2**0.5 * 2, abs=0.01),)
    assert shapes.recall == 1.0


def test_two_sizes_need_two_scales() -> None:
    sides = np.repeat([32.0, 128.0], 50)
    shapes = fit_anchors(sides, sides, 16)
    assert shapes.scales == (2.0, 8.0)
    assert shapes.aspects == (1.0,)


def test_two_shapes_need_two_aspects() -> None:
    shapes = fit_anchors(np.repeat([80.0, 20.0], 50), np.repeat([20.0, 80.0], 50), 8)
    assert shapes.aspects == (0.25, 4.0)
    assert shapes.scales == (5.0,)


def test_recall_counts_boxes_with_a_near_shape() -> None:
    """IoU of 10x10 and 10x5 is 0.5, of 10x10 and 10x8 is 0.8."""
    recall = shape_recall(np.array([10.0, 10.0]), np.array([5.0, 8.0]), np.array([[0.0, 0.0, 10.0, 10.0]]))
    assert recall == 0.5


@pytest.mark.parametrize(
    ("side", "scale", "share"),
    [
        (160.0, 10.0, 1.0),  # the worst place is half a cell away in both directions: IoU 0.8
        (4.0, 0.25, 0.0),  # places are 2 or 6 pixels away: IoU at most 4 / 28
        # 2 or 6 pixels away in each direction. IoU 196 / (512 - 196) = 0.62, 140 / (512 - 140) = 0.38
        (16.0, 1.0, 0.25),
    ],
)
def test_anchors_at_their_places_fit_fewer_boxes(side: float, scale: float, share: float) -> None:
    sides, shapes = np.full(3, side), AnchorShapes((scale,), (1.0,), 1.0)
    assert placed_recall(sides, sides, [16], shapes) == share
    assert placed_recall(sides, sides, [16, 64], shapes) == share, "another level does no harm"


def test_boxes_of_any_shape_get_the_largest_grid() -> None:
    rng = np.random.default_rng(0)
    widths, heights = np.exp(rng.uniform(2, 7, 500)), np.exp(rng.uniform(2, 7, 500))
    shapes = fit_anchors(widths, heights, 16)
    assert shapes.recall < ENOUGH
    assert len(shapes.scales) * len(shapes.aspects) <= 24
    published = base_anchors(16, (8.0, 16.0, 32.0), (0.5, 1.0, 2.0)).numpy()
    assert shapes.recall > shape_recall(widths, heights, published)


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("aspect", [0.01, 0.02, 0.1, 0.5, 2.0, 5.0, 10.0, 30.0, 200.0])
def test_thin_objects_have_an_anchor_of_the_network(stride: int, aspect: float) -> None:
    """The network rounds the sides of its anchors. At stride 8 a side of the aspect 30 is 1.46, so 1."""
    rng = np.random.default_rng(0)
    sides, aspects = 60 * np.exp(rng.normal(0, 0.1, 100)), aspect * np.exp(rng.normal(0, 0.1, 100))
    widths, heights = sides / np.sqrt(aspects), sides * np.sqrt(aspects)
    shapes = fit_anchors(widths, heights, stride)
    anchors = base_anchors(stride, shapes.scales, shapes.aspects).double().numpy()
    assert shapes.recall == shape_recall(widths, heights, anchors)
    assert shapes.recall >= ENOUGH


def test_fitting_is_deterministic() -> None:
    rng = np.random.default_rng(1)
    widths, heights = rng.uniform(10, 200, 300), rng.uniform(10, 200, 300)
    assert fit_anchors(widths, heights, 16) == fit_anchors(widths, heights, 16)


def test_squares_of_any_size_need_two_scales_on_each_level_of_a_pyramid() -> None:
    """With a factor of 2 between anchors, the worst IoU is 0.5; with a factor of sqrt(2), 0.71."""
    sides = np.exp(np.random.default_rng(0).uniform(np.log(34), np.log(360), 500))
    shapes = fit_pyramid_anchors(sides, sides, [8, 16, 32, 64])
    assert (shapes.scales, shapes.aspects) == ((4.0, 5.66), (1.0,))
    assert shapes.recall == 1.0
    one_scale = shape_recall(sides, sides, np.array([(0, 0, 4 * stride, 4 * stride) for stride in (8, 16, 32, 64)]))
    assert one_scale < ENOUGH


@pytest.mark.parametrize(("side", "scale"), [(32.0, 4.0), (45.0, 5.66), (64.0, 8.0)])
def test_one_size_needs_one_scale_on_each_level_of_a_pyramid(side: float, scale: float) -> None:
    """64 is 8 cells of stride 8 and 4 of stride 16: the smaller scale is as good."""
    shapes = fit_pyramid_anchors(np.full(9, side), np.full(9, side), [8])
    assert shapes.scales == (scale,)
    assert len(shapes.aspects) == 1
