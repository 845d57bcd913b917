"""Gradient checkpointing: a backbone keeps only the input of each segment, and runs it again in the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def forward_in_segments(segments: nn.Sequential, x: Tensor, *, checkpointing: bool) -> Tensor:
    """Return segments(x). With `checkpointing`, drop the activations inside trained segments and compute them again.

    This costs about a third more time. Memory then grows with the number of segments instead of layers (Chen et al.
    2016). Gradients are the same. The running statistics of a batch norm that is not frozen count every batch twice.
    """
    for segment in segments:
        trained = any(parameter.requires_grad for parameter in segment.parameters())
        if checkpointing and trained and torch.is_grad_enabled():
            x = checkpoint(segment, x, use_reentrant=False)
        else:
            x = segment(x)
    return x
