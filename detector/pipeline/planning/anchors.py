"""Anchors that fit a data set: a few scales and a few aspects, no more than its boxes need.

An anchor network learns small corrections. So every object should find an anchor whose shape overlaps it well. YOLOv2
(Redmon and Farhadi 2017, section 2) clusters boxes by IoU; here scales and aspects are clustered apart, because that is
what the proposal network takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GOOD = 0.6  # IoU of shapes from which on an anchor is near an object
ENOUGH = 0.95  # share of the objects that must have a near anchor
MOST = {"scales": 6, "aspects": 4}


@dataclass(frozen=True, slots=True)
class AnchorShapes:
    scales: tuple[float, ...]  # sides in strides
    aspects: tuple[float, ...]  # height by width
    recall: float  # share of the objects with an anchor of IoU GOOD or more, centres aligned


def fit_anchors(widths: np.ndarray, heights: np.ndarray, stride: int) -> AnchorShapes:
    """The smallest grid of scales and aspects that is near ENOUGH of the objects, else the nearest of all grids.

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


def shape_recall(widths: np.ndarray, heights: np.ndarray, scales: np.ndarray, aspects: np.ndarray) -> float:
    """The share of boxes [G] that overlap some anchor by GOOD or more, both around one centre."""
    anchor_widths = (scales[:, None] / np.sqrt(aspects)).ravel()
    anchor_heights = (scales[:, None] * np.sqrt(aspects)).ravel()
    shared = np.minimum(widths[:, None], anchor_widths) * np.minimum(heights[:, None], anchor_heights)
    union = (widths * heights)[:, None] + anchor_widths * anchor_heights - shared
    return float(((shared / union).max(axis=1) >= GOOD).mean())


def _centres(values: np.ndarray, count: int) -> np.ndarray:
    """Centres [count] of one-dimensional k-means, ascending, begun at evenly spaced quantiles: no chance in it."""
    centres = np.quantile(values, (np.arange(count) + 0.5) / count)
    for _ in range(50):
        nearest = np.abs(values[:, None] - centres).argmin(axis=1)
        moved = np.array([values[nearest == k].mean() if (nearest == k).any() else centres[k] for k in range(count)])
        if np.allclose(moved, centres):
            break
        centres = moved
    return np.sort(centres)


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    """Two decimals are enough for an anchor, and read well in a config."""
    return tuple(sorted({max(0.01, round(float(value), 2)) for value in values}))
