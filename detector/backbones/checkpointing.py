"""Gradient checkpointing: a backbone keeps only what goes into each segment, and runs it again when learning."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def forward_in_segments(segments: nn.Sequential, x: Tensor, *, checkpointing: bool) -> Tensor:
    """segments(x). With `checkpointing`, a trained segment's inner activations are dropped and computed again.

    About a third more time for a memory that grows with the number of segments, not of layers (Chen et al. 2016).
    Gradients stay the same; a batch norm that is not frozen meets every batch twice in its running statistics.
    """
    for segment in segments:
        trained = any(parameter.requires_grad for parameter in segment.parameters())
        if checkpointing and trained and torch.is_grad_enabled():
            x = checkpoint(segment, x, use_reentrant=False)
        else:
            x = segment(x)
    return x
