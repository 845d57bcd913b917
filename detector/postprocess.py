"""Turns a head's predictions into detections: softmax, decode, threshold, per-class NMS, best of each image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detector.ops import batched_nms
from detector.ops import boxes as box_ops
from detector.preprocess import Frame
from detector.structures import Detections, RoIPredictions
from detector.targets import BoxCoder


@dataclass(frozen=True, slots=True)
class Postprocess:
    """py-faster-rcnn's protocol (`lib/fast_rcnn/test.py`): score threshold, NMS per class, then the image's best."""

    score_threshold: float
    nms_iou: float
    max_per_image: int
    box_voting: float | None = None  # IoU of `vote_boxes`; None: boxes stay as they were decoded

    def __call__(self, predictions: RoIPredictions, boxes: Tensor, coder: BoxCoder, frame: Frame) -> Detections:
        """Return the detections of one image, best first, in the pixels of the network's input.

        boxes [R, 4] are the RoIs of the predictions.
        """
        return self.suppress(self.candidates(predictions, boxes, coder, frame))

    def candidates(self, predictions: RoIPredictions, boxes: Tensor, coder: BoxCoder, frame: Frame) -> Detections:
        """Return the detections before NMS, in any order. Only (RoI, class) pairs above the threshold are decoded.

        `boxes` [R, 4] and the detections are in the pixels of the network's input, clipped to `frame`.
        """
        scores = predictions.logits.float().softmax(dim=1)[:, 1:]  # [R, K]
        roi, column = (scores > self.score_threshold).nonzero(as_tuple=True)
        kept_scores, labels = scores[roi, column], column + 1
        deltas = predictions.deltas[roi, column.clamp(max=predictions.deltas.shape[1] - 1)]
        decoded = box_ops.clip(coder.decode(deltas, boxes[roi], labels), frame.height, frame.width)
        not_empty = (decoded[:, 2] > decoded[:, 0]) & (decoded[:, 3] > decoded[:, 1])
        return Detections(decoded[not_empty], kept_scores[not_empty], labels[not_empty])

    def suppress(self, candidates: Detections) -> Detections:
        """Return the detections that stay after NMS, best first, with the boxes that they have after voting."""
        boxes, scores, labels = candidates.boxes, candidates.scores, candidates.labels
        keep = batched_nms(boxes, scores, labels, self.nms_iou, max_output=self.max_per_image)
        if self.box_voting is None:
            return Detections(boxes[keep], scores[keep], labels[keep])
        return Detections(vote_boxes(boxes, scores, labels, keep, self.box_voting), scores[keep], labels[keep])


def vote_boxes(boxes: Tensor, scores: Tensor, labels: Tensor, keep: Tensor, min_iou: float) -> Tensor:
    """Return the boxes [D, 4] that NMS kept, each as the mean of all boxes of its class that agree with it.

    boxes [N, 4], scores [N] and labels [N] are those before NMS, keep [D] the indices after it. A box agrees from IoU
    `min_iou` on, and its score is its weight. Scores and the order stay. The IoUs are computed in parts of at most
    `TILE_BYTES`, so that memory does not grow with D x N.
    Source: bounding box voting of Gidaris and Komodakis 2015, "Object detection via a multi-region and semantic
    segmentation-aware CNN model", where the IoU is 0.5.
    """
    if torch.compiler.is_exporting():  # the number of parts would depend on values
        return _vote(boxes, scores, labels, keep, min_iou)
    rows = max(1, box_ops.TILE_BYTES // (4 * boxes.element_size() * max(1, len(boxes))))
    return torch.cat([_vote(boxes, scores, labels, part, min_iou) for part in keep.split(rows)])


def _vote(boxes: Tensor, scores: Tensor, labels: Tensor, keep: Tensor, min_iou: float) -> Tensor:
    agrees = (box_ops.iou(boxes[keep], boxes) >= min_iou) & (labels[keep, None] == labels)
    weights = torch.where(agrees, scores, 0.0)  # [D, N]
    # No matrix product: under autocast it would round coordinates to 16 bits.
    sides = [(weights * side).sum(dim=1) for side in boxes.unbind(1)]
    return torch.stack(sides, dim=1) / weights.sum(dim=1, keepdim=True)


def empty_detections(device: torch.device) -> Detections:
    """Return `Detections` without a box."""
    return Detections(
        torch.zeros(0, 4, device=device),
        torch.zeros(0, device=device),
        torch.zeros(0, dtype=torch.int64, device=device),
    )
