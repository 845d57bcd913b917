"""Cross-entropy of the RoIs' classes, with three changes that are off by default.

- Label smoothing: the target is a little less than 1 for the true class, so scores stay finite.
- The focal factor: RoIs that are already classified well count less.
- Class balance: classes with few objects count more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-6  # least 1 - p, so that the focal factor has a finite gradient for focal_gamma below 1


def class_loss(
    logits: Tensor, labels: Tensor, *, label_smoothing: float, focal_gamma: float, class_weights: Tensor | None
) -> Tensor:
    """Return the loss [R] of logits [R, K + 1] with labels [R]; 0 for label -1.

    With `label_smoothing` e the target is 1 - e for the true class, plus e / (K + 1) for every class (Szegedy et al.
    2016, "Rethinking the Inception Architecture", section 7). The loss is multiplied by (1 - p)^`focal_gamma`, with p
    the probability of the true class (Lin et al. 2017, "Focal Loss", equation 4), and by the true class's entry of
    `class_weights` [K + 1].
    """
    loss = F.cross_entropy(logits, labels, ignore_index=-1, reduction="none", label_smoothing=label_smoothing)
    true = labels.clamp(min=0)
    if focal_gamma > 0:
        probability = logits.softmax(dim=1).gather(1, true[:, None]).squeeze(1)
        loss = loss * (1.0 - probability).clamp(min=EPSILON) ** focal_gamma
    if class_weights is not None:
        loss = loss * class_weights[true]
    return loss


def class_balanced_weights(counts: Sequence[int], beta: float) -> Tensor:
    """Return the weights [K + 1] of background (1) and of K classes with `counts` objects in the training set.

    The weight of a class with n objects is proportional to (1 - beta) / (1 - beta^n). The weights of the classes with
    objects have mean 1. `beta` 0 gives equal weights; near 1 they approach 1 / n. A class without objects has weight 1:
    it is never the label of a RoI.
    Source: Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples", section 4.
    """
    present = torch.tensor(counts) > 0
    weights = torch.tensor([1.0 / (1.0 - beta ** max(count, 1)) for count in counts], dtype=torch.float64)
    weights = torch.where(present, weights / weights[present].mean(), 1.0)
    return torch.cat((torch.ones(1, dtype=torch.float64), weights)).float()
