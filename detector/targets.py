"""The training targets of each RoI: its label by overlap, and its normalised box regression target.

Label rules are Fast R-CNN's (2.3): a RoI is foreground if its largest IoU with a ground-truth box is at least
`foreground_iou`, background if it is in [background_iou_low, background_iou_high), and ignored otherwise. Targets are
normalised per class and coordinate to zero mean and unit variance. The model, and so a checkpoint, has the statistics.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detector.ops import boxes as box_ops
from detector.structures import Instances, Proposals, RoITargets


class Candidates(NamedTuple):
    """All RoIs of one image from which a sampler can choose, in the input's pixels."""

    boxes: Tensor  # [P, 4] proposals, then (with `append_truths`) the ground-truth boxes
    labels: Tensor  # [P] int64: class, 0 background, -1 ignored
    gt_boxes: Tensor  # [P, 4] the best matching ground-truth box of each; the RoI itself in an image without objects


@dataclass(frozen=True, slots=True)
class Matcher:
    """The rule that labels RoIs by their overlap with the ground truth."""

    foreground_iou: float
    background_iou_low: float
    background_iou_high: float
    append_truths: bool
    use_difficult: bool

    def __call__(self, proposals: Proposals, instances: Instances) -> Candidates:
        """Return the candidates of one image.

        Ground-truth boxes are appended so that training always sees a perfect box of each object.
        """
        if not self.use_difficult:
            instances = instances[~instances.difficult]
        boxes = torch.cat((proposals.boxes, instances.boxes)) if self.append_truths else proposals.boxes
        overlaps, best = box_ops.best_match(boxes, instances.boxes)
        if len(instances) == 0:
            classes, gt_boxes = torch.zeros_like(best), boxes
        else:
            classes, gt_boxes = instances.labels[best], instances.boxes[best]
        labels = torch.full_like(best, -1)
        background = (overlaps >= self.background_iou_low) & (overlaps < self.background_iou_high)
        labels = torch.where(background, 0, labels)
        labels = torch.where(overlaps >= self.foreground_iou, classes, labels)
        return Candidates(boxes, labels, gt_boxes)


class BoxCoder(nn.Module):
    """Conversion of boxes to normalised regression targets, and of normalised deltas to boxes.

    The statistics are per class, or one row for all classes with class-agnostic regression.
    Source: fast-rcnn `lib/roi_data_layer/roidb.py`.
    """

    mean: Tensor  # [K or 1, 4]
    std: Tensor

    def __init__(self, *, rows: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).repeat(rows, 1))
        self.register_buffer("std", torch.tensor(std).repeat(rows, 1))

    def encode(self, boxes: Tensor, gt_boxes: Tensor, labels: Tensor) -> Tensor:
        """Return the targets [R, 4] from boxes [R, 4] to gt_boxes [R, 4]; zeros if labels [R] are not foreground.

        All boxes are xyxy in the same pixels. Targets are normalised: they have no unit.
        """
        row = self._row(labels)
        deltas = (box_ops.encode(gt_boxes, boxes) - self.mean[row]) / self.std[row]
        return torch.where(labels[:, None] > 0, deltas, 0.0)

    def targets(self, boxes: Tensor, labels: Tensor, gt_boxes: Tensor) -> RoITargets:
        """Return the targets of RoIs: boxes [R, 4] and gt_boxes [R, 4] xyxy in input pixels, labels [R]."""
        return RoITargets(labels, self.encode(boxes, gt_boxes, labels), boxes, gt_boxes)

    def decode(self, deltas: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """Apply normalised deltas [R, 4] of the classes labels [R] to boxes [R, 4]; return the new boxes [R, 4].

        The new boxes are xyxy in the same pixels, not clipped.
        """
        row = self._row(labels)
        return box_ops.decode(deltas.float() * self.std[row] + self.mean[row], boxes)

    def _row(self, labels: Tensor) -> Tensor:
        return (labels - 1).clamp(0, self.mean.shape[0] - 1)


def measure_statistics(
    images: Iterable[tuple[Proposals, Instances]],
    matcher: Matcher,
    *,
    rows: int,
    flip: bool,
    flip_vertical: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return mean and population standard deviation [rows, 4] of the regression targets of all foreground RoIs.

    `images` are in the original pixels: targets do not change with the image's scale. If training flips, flipped
    copies count too; a flip only mirrors tx (vertically: ty). A class whose targets are all equal, or that has none,
    keeps std 1 instead of 0: the original divides by (almost) zero there.
    Source: fast-rcnn `roidb.py::add_bbox_regression_targets`.
    """
    count = torch.zeros(rows, 1, dtype=torch.float64)
    total, squares = torch.zeros(rows, 4, dtype=torch.float64), torch.zeros(rows, 4, dtype=torch.float64)
    for proposals, instances in images:
        candidates = matcher(proposals, instances)
        foreground = candidates.labels > 0
        deltas = box_ops.encode(candidates.gt_boxes[foreground].double(), candidates.boxes[foreground].double())
        row = (candidates.labels[foreground] - 1).clamp(max=rows - 1)
        signs = product((1.0, -1.0) if flip else (1.0,), (1.0, -1.0) if flip_vertical else (1.0,))
        for sign_x, sign_y in signs:
            view = deltas * deltas.new_tensor((sign_x, sign_y, 1.0, 1.0))
            count.index_add_(0, row, torch.ones(len(row), 1, dtype=torch.float64))
            total.index_add_(0, row, view)
            squares.index_add_(0, row, view.square())
    mean = total / count.clamp(min=1)
    std = (squares / count.clamp(min=1) - mean.square()).clamp(min=0).sqrt()
    return mean.float(), torch.where(std > 1e-6, std, 1.0).float()
