"""The multi-task loss of Fast R-CNN (equations 1 to 3), for each RoI."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from detector.structures import RoIPredictions, RoITargets


class RoILosses(NamedTuple):
    """Loss of each RoI. Both parts are zero for ignored RoIs, and the box part is zero for background RoIs too."""

    classification: Tensor  # [R]
    box: Tensor  # [R], summed over the 4 coordinates


def smooth_l1(error: Tensor, sigma: float) -> Tensor:
    """Return 0.5 (sigma x)^2 if |x| < 1 / sigma^2, otherwise |x| - 0.5 / sigma^2, elementwise.

    Source: Fast R-CNN equation 3 (sigma 1); py-faster-rcnn `smooth_L1_loss_layer.cu` for sigma.
    """
    magnitude, threshold = error.abs(), 1.0 / sigma**2
    return torch.where(magnitude < threshold, 0.5 * sigma**2 * error.square(), magnitude - 0.5 * threshold)


def roi_losses(predictions: RoIPredictions, targets: RoITargets, sigma: float) -> RoILosses:
    """Return cross-entropy and box loss of each RoI, in float32 for predictions of any dtype."""
    logits, deltas = predictions.logits.float(), predictions.deltas.float()
    classification = F.cross_entropy(logits, targets.labels, ignore_index=-1, reduction="none")
    row = (targets.labels - 1).clamp(0, deltas.shape[1] - 1)
    of_class = deltas.gather(1, row[:, None, None].expand(-1, 1, 4)).squeeze(1)
    box = smooth_l1(of_class - targets.deltas, sigma).sum(dim=1)
    return RoILosses(classification, torch.where(targets.labels > 0, box, 0.0))
