"""The region proposal network (Faster R-CNN 3): it scores and refines the anchors of every cell.

    proposal map --3x3, ReLU--+--1x1--> object or not, for each anchor     (2A: background, object)
                              +--1x1--> box deltas, for each anchor        (4A)

It is trained jointly with the head. No gradient flows through the coordinates of the proposals (approximate joint
training, 3.2).

With several maps (a feature pyramid, 4.1 of its paper) all use the same layers, each with anchors for its stride. NMS
runs on each map separately. The output is the best of all maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detector.box_losses import OverlapLoss
from detector.losses import smooth_l1
from detector.ops import boxes as box_ops
from detector.ops import nms
from detector.preprocess import Frame, Inputs
from detector.proposals.anchors import anchor_grid, base_anchors, corner_anchors
from detector.proposals.given import ProposalOutput
from detector.sampling import RandomSampling
from detector.separable import conv3x3
from detector.structures import Instances, Mean, Proposals


@dataclass(frozen=True, slots=True)
class KeepCounts:
    """The largest numbers of proposals of one image before and after NMS."""

    before_nms: int  # of each map
    after_nms: int


class Level(NamedTuple):
    """The anchors of one map, and the network's output for them."""

    anchors: Tensor  # [P, 4]
    scores: Tensor  # [N, P, 2]
    deltas: Tensor  # [N, P, 4]


class RPN(nn.Module):
    """The region proposal network over one map or several."""

    reads_features = True
    bases: Tensor  # [L, A, 4], the anchors of the first cell of each map

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        separable: bool,
        strides: Sequence[int],
        scales: tuple[float, ...],
        aspects: tuple[float, ...],
        as_torchvision: bool,
        train_keep: KeepCounts,
        test_keep: KeepCounts,
        nms_iou: float,
        min_size: float,
        positive_iou: float,
        negative_iou: float,
        anchors_per_image: int,
        positive_fraction: float,
        overlap_loss: OverlapLoss | None,
        sigma: float,
        use_difficult: bool,
    ) -> None:
        """`strides` are input pixels per cell of each map, `scales` are in strides.

        With `as_torchvision` the anchors are `corner_anchors`, a cell is as large as the canvas divided by the map's
        cells, and boxes that are too small take places among the best before NMS.
        `min_size` is in pixels of the original image. Boxes with a shorter side are dropped. The box loss is
        `overlap_loss` of the decoded box; None: smooth L1 of the deltas, with `sigma`.
        """
        super().__init__()
        self.strides = tuple(strides)
        self.as_torchvision = as_torchvision
        self.train_keep, self.test_keep = train_keep, test_keep
        self.nms_iou = nms_iou
        self.min_size = min_size
        self.positive_iou, self.negative_iou = positive_iou, negative_iou
        self.sampling = RandomSampling(rois_per_image=anchors_per_image, foreground_fraction=positive_fraction)
        self.overlap_loss = overlap_loss
        self.sigma = sigma
        self.use_difficult = use_difficult
        first = corner_anchors if as_torchvision else base_anchors
        bases = torch.stack([first(stride, scales, aspects) for stride in strides])
        self.register_buffer("bases", bases, persistent=False)
        num_anchors = bases.shape[1]
        self.conv = conv3x3(in_channels, channels, separable=separable)
        self.scores = nn.Conv2d(channels, 2 * num_anchors, 1)
        self.deltas = nn.Conv2d(channels, 4 * num_anchors, 1)
        dense = (self.scores, self.deltas) if separable else (self.conv, self.scores, self.deltas)
        for layer in dense:
            nn.init.normal_(layer.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor], inputs: Inputs) -> ProposalOutput:
        """Return the proposals of each image, best first, and in training the two losses on a sample of anchors.

        `features` are the maps [N, C, H_i, W_i] of all levels. Boxes are in the pixels of the network's input.
        """
        levels = [
            self._level(level, base, self._cell(level, inputs.images, stride))
            for level, base, stride in zip(features, self.bases, self.strides, strict=True)
        ]
        with torch.no_grad():
            keep = self.train_keep if self.training else self.test_keep
            proposals = []
            for i, frame in enumerate(inputs.frames):
                found = [
                    self._propose(level.anchors, level.scores[i], level.deltas[i], frame, keep) for level in levels
                ]
                proposals.append(found[0] if len(found) == 1 else best_of(found, keep.after_nms))
        if not self.training:
            return ProposalOutput(proposals, {})
        anchors = torch.cat([level.anchors for level in levels])
        scores, deltas = (torch.cat([level[kind] for level in levels], dim=1) for kind in (1, 2))
        return ProposalOutput(proposals, self._losses(anchors, scores, deltas, inputs))

    def _cell(self, features: Tensor, canvas: Tensor, stride: int) -> tuple[int, int]:
        """Return height and width of a map's cell in input pixels.

        In torchvision 13 cells of P6 on a canvas of 800 pixels are 61 pixels apart, not 64.
        """
        if not self.as_torchvision:
            return stride, stride
        return canvas.shape[2] // features.shape[2], canvas.shape[3] // features.shape[3]

    def _level(self, features: Tensor, base: Tensor, cell: tuple[int, int]) -> Level:
        """Apply the layers to one map [N, C, H, W]."""
        hidden = F.relu(self.conv(features), inplace=True)
        num_images, _, height, width = hidden.shape
        # [N, A * c, H, W] -> [N, H * W * A, c]: the order of `anchor_grid`.
        scores = self.scores(hidden).unflatten(1, (-1, 2)).permute(0, 3, 4, 1, 2).reshape(num_images, -1, 2).float()
        deltas = self.deltas(hidden).unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).reshape(num_images, -1, 4).float()
        return Level(anchor_grid(base, height, width, cell), scores, deltas)

    def _propose(self, anchors: Tensor, scores: Tensor, deltas: Tensor, frame: Frame, keep: KeepCounts) -> Proposals:
        """Return the best boxes of one map of one image after NMS.

        Source: py-faster-rcnn `lib/rpn/proposal_layer.py`.
        """
        objectness = scores[:, 1] - scores[:, 0]
        boxes = box_ops.clip(box_ops.decode(deltas, anchors), frame.height, frame.width)
        shortest = torch.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
        # Rank boxes that are too small last instead of removing them, so that the top k has a fixed size.
        large = (shortest >= self.min_size * frame.scale()) & (shortest >= 1e-3)
        ranked = objectness if self.as_torchvision else torch.where(large, objectness, -torch.inf)
        best, order = ranked.topk(torch.sym_min(keep.before_nms, ranked.shape[0]))
        order = order[(best > -torch.inf) & large[order]]
        kept = order[nms(boxes[order], objectness[order], self.nms_iou, max_output=keep.after_nms)]
        return Proposals(boxes[kept], objectness[kept].sigmoid())

    def _losses(self, anchors: Tensor, scores: Tensor, deltas: Tensor, inputs: Inputs) -> dict[str, Mean]:
        """Return cross-entropy and box loss over the sampled anchors, both divided by the number of these anchors."""
        with torch.no_grad():
            labels, matched = [], []
            for frame, instances, seed in zip(inputs.frames, inputs.instances, inputs.seeds, strict=True):
                label, gt_boxes = self.assign(anchors, instances, frame)
                sampled = self.sampling.priority(label, seed + 1) > 0  # not the seed of the head's sampler
                labels.append(torch.where(sampled, label, -1))
                matched.append(gt_boxes)
        label, gt_boxes = torch.stack(labels), torch.stack(matched)  # [N, P], [N, P, 4]
        count = (label >= 0).sum()
        classification = F.cross_entropy(scores.flatten(0, 1), label.flatten(), ignore_index=-1, reduction="sum")
        if self.overlap_loss is None:
            box = smooth_l1(deltas - box_ops.encode(gt_boxes, anchors), self.sigma).sum(dim=2)
        else:
            decoded = box_ops.decode(torch.where(label[..., None] > 0, deltas, 0.0), anchors)
            box = self.overlap_loss(decoded, gt_boxes)
        box = torch.where(label > 0, box, 0.0).sum()
        return {"loss_rpn_cls": Mean(classification, count), "loss_rpn_box": Mean(box, count)}

    def assign(self, anchors: Tensor, instances: Instances, frame: Frame) -> tuple[Tensor, Tensor]:
        """Return labels [P] (1 object, 0 background, -1 ignored) and best ground-truth boxes [P, 4] of the anchors.

        Only anchors inside the image count. An anchor is an object if its IoU is at least `positive_iou`, or if no
        anchor has a larger IoU with some ground-truth box (ties count). Others are background below `negative_iou`.
        IoUs are computed in tiles, so memory is bounded. Source: py-faster-rcnn `lib/rpn/anchor_target_layer.py`.
        """
        if not self.use_difficult:
            instances = instances[~instances.difficult]
        x1, y1, x2, y2 = anchors.unbind(1)
        inside = (x1 >= 0) & (y1 >= 0) & (x2 <= frame.width) & (y2 <= frame.height)
        labels = torch.full_like(inside, -1, dtype=torch.int64)
        if len(instances) == 0:
            return torch.where(inside, 0, labels), anchors
        overlaps, best, is_best = match_anchors(anchors, instances.boxes, inside)
        labels = torch.where(overlaps < self.negative_iou, 0, labels)
        labels = torch.where(is_best | (overlaps >= self.positive_iou), 1, labels)
        return torch.where(inside, labels, -1), instances.boxes[best]


def best_of(proposals: Sequence[Proposals], count: int) -> Proposals:
    """Return the `count` best of several sets of proposals of one image."""
    boxes, scores = torch.cat([item.boxes for item in proposals]), torch.cat([item.scores for item in proposals])
    best, order = scores.topk(torch.sym_min(count, scores.shape[0]))
    return Proposals(boxes[order], best)


def match_anchors(anchors: Tensor, gt_boxes: Tensor, among: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Match anchors [P, 4] with gt_boxes [G, 4].

    Returns for each anchor its largest IoU, the index of that ground-truth box, and whether the anchor is the best for
    some ground-truth box: no anchor in mask `among` [P] has a larger IoU with the box, and the IoU is above 0. Ties
    count. py-faster-rcnn lacks the condition above 0: there a ground-truth box that overlaps no anchor makes every
    anchor an object. Boxes are processed in tiles, so memory is bounded for any P x G. The first ground-truth box wins
    a tie, as with `argmax`.
    """
    rows = max(1, box_ops.TILE_BYTES // (4 * anchors.element_size() * max(1, len(anchors))))
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
