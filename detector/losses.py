"""The multi-task loss of Fast R-CNN (equations 1 to 3), for each RoI."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from detector.box_losses import OverlapLoss
from detector.class_losses import class_loss
from detector.structures import RoIPredictions, RoITargets
from detector.targets import BoxCoder


class RoILosses(NamedTuple):
    """Loss of each RoI. Both parts are zero for ignored RoIs, and the box part is zero for background RoIs too."""

    classification: Tensor  # [R]
    box: Tensor  # [R], with its weight applied


class RoILoss(nn.Module):
    """The loss of each RoI: of its class, and of the box of its true class."""

    class_weights: Tensor | None  # [K + 1], background first

    def __init__(
        self,
        *,
        box_weight: float,
        sigma: float,
        overlap_loss: OverlapLoss | None,
        label_smoothing: float,
        focal_gamma: float,
        class_weights: Tensor | None,
    ) -> None:
        """The box loss is `overlap_loss` of the decoded box; None: smooth L1 of the deltas, with `sigma`.

        `class_weights` [K + 1] and the others are those of `class_loss`.
        """
        super().__init__()
        self.box_weight = box_weight
        self.sigma = sigma
        self.overlap_loss = overlap_loss
        self.label_smoothing = label_smoothing
        self.focal_gamma = focal_gamma
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, predictions: RoIPredictions, targets: RoITargets, coder: BoxCoder) -> RoILosses:
        """Return both losses of each RoI, in float32 for predictions of any dtype."""
        logits, deltas = predictions.logits.float(), predictions.deltas.float()
        classification = class_loss(
            logits,
            targets.labels,
            label_smoothing=self.label_smoothing,
            focal_gamma=self.focal_gamma,
            class_weights=self.class_weights,
        )
        row = (targets.labels - 1).clamp(0, deltas.shape[1] - 1)
        of_class = deltas.gather(1, row[:, None, None].expand(-1, 1, 4)).squeeze(1)
        foreground = targets.labels > 0
        if self.overlap_loss is None:
            box = smooth_l1(of_class - targets.deltas, self.sigma).sum(dim=1)
        else:
            # Padding has boxes of size 0. Without this its gradient could be 0 x inf.
            of_class = torch.where(foreground[:, None], of_class, 0.0)
            box = self.overlap_loss(coder.decode(of_class, targets.boxes, targets.labels), targets.gt_boxes)
        return RoILosses(classification, torch.where(foreground, box, 0.0) * self.box_weight)


def smooth_l1(error: Tensor, sigma: float) -> Tensor:
    """Return 0.5 (sigma x)^2 if |x| < 1 / sigma^2, otherwise |x| - 0.5 / sigma^2, for each x of `error`, of any shape.

    Source: Fast R-CNN equation 3 (sigma 1); py-faster-rcnn `smooth_L1_loss_layer.cu` for sigma.
    """
    magnitude, threshold = error.abs(), 1.0 / sigma**2
    return torch.where(magnitude < threshold, 0.5 * sigma**2 * error.square(), magnitude - 0.5 * threshold)
