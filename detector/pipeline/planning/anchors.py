"""Anchors that fit a data set: the smallest number of scales and aspects that its boxes need.

An RPN learns small corrections of its anchors. So every object should have an anchor whose shape overlaps it well.
YOLOv2 (Redmon and Farhadi 2017, section 2) clusters boxes by IoU. Here scales and aspects are clustered separately,
because the proposal network takes them separately.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_IOU = 0.6  # IoU of shapes at which an anchor fits an object
ENOUGH = 0.95  # share of the objects that must have a fitting anchor
MOST = {"scales": 6, "aspects": 4}
LEVEL_SCALES = ((4.0,), (5.66,), (8.0,), (4.0, 5.66), (5.66, 8.0))  # of each level of a pyramid


@dataclass(frozen=True, slots=True)
class AnchorShapes:
    """The anchors of a cell: each scale with each aspect."""

    scales: tuple[float, ...]  # sides in strides
    aspects: tuple[float, ...]  # height / width
    recall: float  # share of the objects with an anchor of IoU MIN_IOU or more, centres aligned


def fit_anchors(widths: np.ndarray, heights: np.ndarray, stride: int) -> AnchorShapes:
    """Return the smallest grid of scales and aspects that fits ENOUGH of the objects, else the grid that fits most.

    `widths` and `heights` [G] are in pixels of the network's input.
    """
    sides, aspects = np.log(np.sqrt(widths * heights)), np.log(heights / widths)
    best: AnchorShapes | None = None
    grids = [(s, a) for s in range(1, MOST["scales"] + 1) for a in range(1, MOST["aspects"] + 1)]
    for num_scales, num_aspects in sorted(grids, key=lambda grid: (grid[0] * grid[1], grid)):
        scales, shapes = np.exp(_centres(sides, num_scales)), np.exp(_centres(aspects, num_aspects))
        recall = shape_recall(widths, heights, scales, shapes)
        if best is None or recall > best.recall + 1e-9:
            best = AnchorShapes(_rounded(scales / stride), _rounded(shapes), recall)
        if recall >= ENOUGH:
            break
    assert best is not None
    return best


def fit_pyramid_anchors(widths: np.ndarray, heights: np.ndarray, strides: Sequence[int]) -> AnchorShapes:
    """Return the same for a feature pyramid, whose levels of these strides have the same scales.

    Neighbouring levels differ by a factor of 2, so a level needs one scale, or two with a factor of sqrt(2).
    """
    aspects = np.log(heights / widths)
    best: AnchorShapes | None = None
    grids = [(scales, count) for scales in LEVEL_SCALES for count in range(1, MOST["aspects"] + 1)]
    for scales, count in sorted(grids, key=lambda grid: len(grid[0]) * grid[1]):
        shapes = np.exp(_centres(aspects, count))
        sides = np.outer(strides, scales).ravel()
        recall = shape_recall(widths, heights, sides, shapes)
        if best is None or recall > best.recall + 1e-9:
            best = AnchorShapes(scales, _rounded(shapes), recall)
        if best.recall >= ENOUGH and len(scales) * count > len(best.scales) * len(best.aspects):
            break
    assert best is not None
    return best


def shape_recall(widths: np.ndarray, heights: np.ndarray, scales: np.ndarray, aspects: np.ndarray) -> float:
    """Return the share of boxes [G] that an anchor with the same centre overlaps by MIN_IOU or more."""
    anchor_widths = (scales[:, None] / np.sqrt(aspects)).ravel()
    anchor_heights = (scales[:, None] * np.sqrt(aspects)).ravel()
    shared = np.minimum(widths[:, None], anchor_widths) * np.minimum(heights[:, None], anchor_heights)
    union = (widths * heights)[:, None] + anchor_widths * anchor_heights - shared
    return float(((shared / union).max(axis=1) >= MIN_IOU).mean())


def _centres(values: np.ndarray, count: int) -> np.ndarray:
    """Return the ascending centres [count] of 1-D k-means. It starts at even quantiles: it is deterministic."""
    centres = np.quantile(values, (np.arange(count) + 0.5) / count)
    for _ in range(50):
        nearest = np.abs(values[:, None] - centres).argmin(axis=1)
        moved = np.array([values[nearest == k].mean() if (nearest == k).any() else centres[k] for k in range(count)])
        if np.allclose(moved, centres):
            break
        centres = moved
    return np.sort(centres)


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    """Round to two decimals, which are precise enough for an anchor and easy to read in a config."""
    return tuple(sorted({max(0.01, round(float(value), 2)) for value in values}))
