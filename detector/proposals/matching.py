"""Which anchors of an image are objects in the RPN's loss: by fixed IoUs, or by the anchors near each object (ATSS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from detector.ops import boxes as box_ops

NEAREST = 9  # cells of each map that ATSS looks at for an object (ATSS, section 4.1)


class AnchorMatching(Protocol):
    """A rule that labels anchors."""

    def __call__(
        self, anchors: Tensor, gt_boxes: Tensor, inside: Tensor, sizes: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return labels [P] (1 object, 0 background, -1 ignored) and the index [P] of each anchor's box.

        `anchors` are [P, 4], those of all maps in turn, with `sizes` anchors each. `gt_boxes` are [G, 4], G > 0, in
        pixels of the network's input like the anchors. Only anchors with `inside` [P] can be the object of a box; the
        labels of the others do not count. Boxes are processed in tiles, so memory is bounded for any P x G.
        """


@dataclass(frozen=True, slots=True)
class IoUMatching:
    """An anchor is an object from `positive_iou` on, or if no anchor has a larger IoU with some box (ties count).

    Others are background below `negative_iou`. Source: py-faster-rcnn `lib/rpn/anchor_target_layer.py`.
    """

    positive_iou: float
    negative_iou: float

    def __call__(
        self, anchors: Tensor, gt_boxes: Tensor, inside: Tensor, sizes: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Label the anchors, see `AnchorMatching`."""
        overlaps, index, is_best = match_anchors(anchors, gt_boxes, inside)
        labels = torch.where(overlaps < self.negative_iou, 0, -1)
        return torch.where(is_best | (overlaps >= self.positive_iou), 1, labels), index


@dataclass(frozen=True, slots=True)
class AdaptiveMatching:
    """ATSS: each box has its own limit of IoU, the mean plus the standard deviation over the anchors near its centre.

    Near are the anchors of the NEAREST cells of each map. Those above the limit with their centre in the box are
    objects, all others background. As in the RPN, the best anchor of a box always is an object. Source: Zhang et al.
    2020, "Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample Selection",
    algorithm 1.
    """

    anchors_per_cell: int

    def __call__(
        self, anchors: Tensor, gt_boxes: Tensor, inside: Tensor, sizes: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Label the anchors, see `AnchorMatching`."""
        _, index, is_best = match_anchors(anchors, gt_boxes, inside)
        largest = anchors.new_full((len(anchors),), -1.0)
        if len(anchors) == 0:
            return torch.zeros_like(index), index
        rows = _rows_of_a_tile(anchors)
        for start in range(0, len(gt_boxes), rows):
            of_anchor = self._chosen(anchors, gt_boxes[start : start + rows], inside, sizes).max(dim=0)
            closer = of_anchor.values > largest
            largest = torch.where(closer, of_anchor.values, largest)
            index = torch.where(closer, of_anchor.indices + start, index)
        return torch.where(is_best | (largest >= 0), 1, 0), index

    def _chosen(self, anchors: Tensor, gt_boxes: Tensor, inside: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return [G, P]: the IoU of a box with an anchor that is its object, -1 for the other anchors."""
        centres, overlaps = _centres(anchors), box_ops.iou(gt_boxes, anchors)
        distances = torch.where(inside, torch.cdist(_centres(gt_boxes), centres), torch.inf)
        near, start = [], 0
        for size in sizes:
            count = min(NEAREST * self.anchors_per_cell, size)
            near.append(start + distances[:, start : start + size].topk(count, dim=1, largest=False).indices)
            start += size
        index = torch.cat(near, dim=1)  # [G, K]
        valid, found = inside[index], overlaps.gather(1, index)
        count = valid.sum(dim=1, keepdim=True)
        mean = torch.where(valid, found, 0.0).sum(dim=1, keepdim=True) / count.clamp(min=1)
        square = torch.where(valid, (found - mean) ** 2, 0.0).sum(dim=1, keepdim=True)
        limit = mean + (square / (count - 1).clamp(min=1)).sqrt()
        x, y = centres[index].unbind(2)
        x1, y1, x2, y2 = gt_boxes[:, :, None].unbind(1)
        within = (x > x1) & (x < x2) & (y > y1) & (y < y2)
        chosen = torch.where(valid & within & (found >= limit), found, -1.0)
        return torch.full_like(overlaps, -1.0).scatter(1, index, chosen)


def match_anchors(anchors: Tensor, gt_boxes: Tensor, among: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Match anchors [P, 4] with gt_boxes [G, 4].

    Returns for each anchor its largest IoU, the index of that ground-truth box, and whether the anchor is the best for
    some ground-truth box: no anchor in mask `among` [P] has a larger IoU with the box, and the IoU is above 0. Ties
    count. py-faster-rcnn lacks the condition above 0: there a ground-truth box that overlaps no anchor makes every
    anchor an object. Boxes are processed in tiles, so memory is bounded for any P x G. The first ground-truth box wins
    a tie, as with `argmax`.
    """
    rows = _rows_of_a_tile(anchors)
    largest, index = anchors.new_full((len(anchors),), -1.0), torch.zeros_like(among, dtype=torch.int64)
    is_best = torch.zeros_like(among)
    if len(anchors) == 0:
        return largest, index, is_best
    for start in range(0, len(gt_boxes), rows):
        overlaps = box_ops.iou(gt_boxes[start : start + rows], anchors)  # [tile, P]: fastest with the long side last
        of_anchor = overlaps.max(dim=0)
        closer = of_anchor.values > largest
        largest = torch.where(closer, of_anchor.values, largest)
        index = torch.where(closer, of_anchor.indices + start, index)
        of_gt_box = torch.where(among, overlaps, 0.0).amax(dim=1, keepdim=True)
        is_best |= (among & (overlaps == of_gt_box) & (of_gt_box > 0)).any(dim=0)
    return largest, index, is_best


def _rows_of_a_tile(anchors: Tensor) -> int:
    return max(1, box_ops.TILE_BYTES // (4 * anchors.element_size() * max(1, len(anchors))))


def _centres(boxes: Tensor) -> Tensor:
    return (boxes[:, :2] + boxes[:, 2:]) / 2
