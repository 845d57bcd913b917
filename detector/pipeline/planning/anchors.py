"""Anchors that fit a data set: the smallest number of scales and aspects that its boxes need.

An RPN learns small corrections of its anchors. So every object should have an anchor whose shape overlaps it well.
YOLOv2 (Redmon and Farhadi 2017, section 2) clusters boxes by IoU. Here scales and aspects are clustered separately,
because the proposal network takes them separately.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product

import numpy as np
import torch

from detector.proposals.anchors import base_anchors

MIN_IOU = 0.6  # IoU of shapes at which an anchor fits an object
ENOUGH = 0.95  # share of the objects that must have a fitting anchor
MOST = {"scales": 6, "aspects": 4}
PLACES = 4  # places of a centre in a cell, in each direction
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
    side_centres, aspect_centres = cache(partial(_centres, sides)), cache(partial(_centres, aspects))
    best: AnchorShapes | None = None
    grids = [(s, a) for s in range(1, MOST["scales"] + 1) for a in range(1, MOST["aspects"] + 1)]
    for num_scales, num_aspects in sorted(grids, key=lambda grid: (grid[0] * grid[1], grid)):
        centres, shapes = np.exp(side_centres(num_scales)), _rounded(np.exp(aspect_centres(num_aspects)))
        # The network rounds the sides of an anchor to whole pixels, so thin anchors are not as long as the stride says.
        real_unit = float(_sides(_anchors([stride], (1.0,), shapes)).mean())
        for scales in (_rounded(centres / stride), _rounded(centres / real_unit)):
            recall = shape_recall(widths, heights, _anchors([stride], scales, shapes))
            if best is None or recall > best.recall + 1e-9:
                best = AnchorShapes(scales, shapes, recall)
            if recall >= ENOUGH:
                return best
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
        shapes = _rounded(np.exp(_centres(aspects, count)))
        recall = shape_recall(widths, heights, _anchors(strides, scales, shapes))
        if best is None or recall > best.recall + 1e-9:
            best = AnchorShapes(scales, shapes, recall)
        if best.recall >= ENOUGH and len(scales) * count > len(best.scales) * len(best.aspects):
            break
    assert best is not None
    return best


def shape_recall(widths: np.ndarray, heights: np.ndarray, anchors: np.ndarray) -> float:
    """Return the share of boxes [G] whose IoU with one of anchors [A, 4] is MIN_IOU or more, centres aligned."""
    anchor_widths, anchor_heights = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    shared = np.minimum(widths[:, None], anchor_widths) * np.minimum(heights[:, None], anchor_heights)
    union = (widths * heights)[:, None] + anchor_widths * anchor_heights - shared
    return float(((shared / union).max(axis=1) >= MIN_IOU).mean())


def placed_recall(widths: np.ndarray, heights: np.ndarray, strides: Sequence[int], shapes: AnchorShapes) -> float:
    """Return the mean share of boxes [G] with an anchor of IoU MIN_IOU or more, over places of their centres in a cell.

    Anchors have the distance of the stride. A box smaller than the stride lies between them in most places.
    """
    shares = []
    for x, y in product((np.arange(PLACES) + 0.5) / PLACES - 0.5, repeat=2):
        fits = np.zeros(len(widths), dtype=bool)
        for stride in strides:
            anchors = _anchors([stride], shapes.scales, shapes.aspects)
            sides = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
            shared = np.ones((len(widths), len(anchors)))
            for length, side, offset in ((widths, sides[0], x * stride), (heights, sides[1], y * stride)):
                apart = (length[:, None] + side) / 2 - abs(offset)
                shared *= np.clip(np.minimum(apart, np.minimum(length[:, None], side)), 0, None)
            union = (widths * heights)[:, None] + sides[0] * sides[1] - shared
            fits |= (shared / union).max(axis=1) >= MIN_IOU
        shares.append(fits.mean())
    return float(np.mean(shares))


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


def _anchors(strides: Sequence[int], scales: tuple[float, ...], aspects: tuple[float, ...]) -> np.ndarray:
    """Return the network's anchors [A, 4] of the first cell of each map, in pixels of the input."""
    anchors: np.ndarray = torch.cat([base_anchors(stride, scales, aspects) for stride in strides]).double().numpy()
    return anchors


def _sides(boxes: np.ndarray) -> np.ndarray:
    """Return the square roots [A] of the areas of boxes [A, 4]."""
    sides: np.ndarray = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    return sides


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    """Round to two decimals, or to two digits below 0.1: precise enough for an anchor and easy to read in a config."""
    return tuple(sorted({round(float(value), 2) if value >= 0.1 else float(f"{value:.2g}") for value in values}))
