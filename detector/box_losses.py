"""Losses on the overlap of a predicted box with its ground-truth box. Unlike smooth L1 they treat a box as a whole.

Both are computed on fractions of the smallest box that encloses the two, one axis at a time. So no square overflows,
and a box of size 0 has a finite loss and a finite gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

MIN_SIDE = 1e-3  # pixels; shorter sides count as this, as in `ops.boxes.encode`
EPSILON = 1e-12  # keeps divisions by 0 finite; the divisors are fractions of 1

# (boxes [..., 4], gt_boxes [..., 4]) -> loss [...] of each pair
OverlapLoss = Callable[[Tensor, Tensor], Tensor]


class _Overlap(NamedTuple):
    iou: Tensor  # [...]
    union: Tensor  # [...] area of the union / area of the enclosing box
    width: Tensor  # [...] of the enclosing box, in pixels
    height: Tensor  # [...]


def giou_loss(boxes: Tensor, gt_boxes: Tensor) -> Tensor:
    """Return 1 - GIoU [...] of boxes [..., 4] with gt_boxes [..., 4], xyxy: from 0 (equal) to 2 (far apart).

    GIoU is IoU minus the part of the enclosing box that the union leaves empty, so boxes that do not overlap have a
    gradient too. It does not change with the scale of an axis.
    Source: Rezatofighi et al. 2019, "Generalized Intersection over Union", algorithm 2.
    """
    overlap = _overlap(boxes, gt_boxes)
    return 2.0 - overlap.iou - overlap.union


def ciou_loss(boxes: Tensor, gt_boxes: Tensor) -> Tensor:
    """Return 1 - CIoU [...] of boxes [..., 4] with gt_boxes [..., 4], xyxy: 0 for equal boxes.

    CIoU is IoU minus the squared distance of the centres (in diagonals of the enclosing box) minus a term for the
    difference of the aspects. That term's weight is a constant for the gradient.
    Source: Zheng et al. 2020, "Distance-IoU Loss", section "Complete IoU Loss".
    """
    overlap = _overlap(boxes, gt_boxes)
    diagonal = torch.hypot(overlap.width, overlap.height)
    shift = (boxes[..., :2] + boxes[..., 2:] - gt_boxes[..., :2] - gt_boxes[..., 2:]) * 0.5
    distance = (shift / diagonal[..., None]).square().sum(dim=-1)
    aspect = (_angle(gt_boxes) - _angle(boxes)).square() * (4.0 / math.pi**2)
    weight = (aspect / (1.0 - overlap.iou + aspect + EPSILON)).detach()
    return 1.0 - overlap.iou + distance + weight * aspect


def _overlap(boxes: Tensor, gt_boxes: Tensor) -> _Overlap:
    low, high = torch.minimum(boxes, gt_boxes), torch.maximum(boxes, gt_boxes)
    sides, gt_sides, enclosing = _sides(boxes, boxes), _sides(gt_boxes, gt_boxes), _sides(low, high)
    added, gt_added, enclosing_added = _missing(sides), _missing(gt_sides), _missing(enclosing)
    # Along an axis the shared part is side + gt_side - enclosing, so it grows with them.
    shared = (_sides(high, low) + (added + gt_added - enclosing_added)).clamp(min=0)
    enclosing = enclosing + enclosing_added
    intersection = _product(shared / enclosing)
    union = _product((sides + added) / enclosing) + _product((gt_sides + gt_added) / enclosing) - intersection
    return _Overlap(intersection / (union + EPSILON), union, *enclosing.unbind(dim=-1))


def _sides(first: Tensor, last: Tensor) -> Tensor:
    """Return width and height [..., 2] from x1 y1 of `first` [..., 4] to x2 y2 of `last` [..., 4]; below 0 if apart."""
    return last[..., 2:] - first[..., :2]


def _missing(sides: Tensor) -> Tensor:
    """Return what sides [..., 2] lack to `MIN_SIDE`."""
    return (MIN_SIDE - sides).clamp(min=0)


def _product(sides: Tensor) -> Tensor:
    """Return width x height [...] of sides [..., 2]. The gradient of `torch.prod` waits for the device."""
    return sides[..., 0] * sides[..., 1]


def _angle(boxes: Tensor) -> Tensor:
    """Return the angle [...] of the diagonal of boxes [..., 4] with the vertical, in radians."""
    width, height = _sides(boxes, boxes).clamp(min=MIN_SIDE).unbind(dim=-1)
    return torch.atan2(width, height)
