"""The multi-task loss of Fast R-CNN (equations 1 to 3), per RoI and summed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from detector.structures import RoIPredictions, RoITargets


class RoILosses(NamedTuple):
    """Loss of each RoI; zero where its label is ignored, the box part zero outside the foreground too."""

    classification: Tensor  # [R]
    box: Tensor  # [R], summed over the 4 coordinates


def smooth_l1(error: Tensor, sigma: float) -> Tensor:
    """0.5 (sigma x)^2 where |x| < 1 / sigma^2, otherwise |x| - 0.5 / sigma^2, elementwise.

    Source: Fast R-CNN equation 3 (sigma 1); py-faster-rcnn `smooth_L1_loss_layer.cu` for sigma.
    """
    size, turn = error.abs(), 1.0 / sigma**2
    return torch.where(size < turn, 0.5 * sigma**2 * error.square(), size - 0.5 * turn)


def roi_losses(predictions: RoIPredictions, targets: RoITargets, sigma: float) -> RoILosses:
    """Cross-entropy and box loss of each RoI, in float32 whatever the predictions' type."""
    logits, deltas = predictions.logits.float(), predictions.deltas.float()
    classification = F.cross_entropy(logits, targets.labels, ignore_index=-1, reduction="none")
    slot = (targets.labels - 1).clamp(0, deltas.shape[1] - 1)
    of_class = deltas.gather(1, slot[:, None, None].expand(-1, 1, 4)).squeeze(1)
    box = smooth_l1(of_class - targets.deltas, sigma).sum(dim=1)
    return RoILosses(classification, torch.where(targets.labels > 0, box, 0.0))
