"""Batch norm over the images of all processes. Its statistics equal those of one process with the whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from detector.engine.distributed import summed, world_size


class _Summed(torch.autograd.Function):
    """The sum over the processes. All processes use the sum, so its gradient is summed over the processes too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return summed(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return summed(gradients[0])


class SyncBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that, in training, takes mean and variance over the pixels of all processes."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalised x [N, C, H, W]; N, H and W may differ between the processes."""
        if not self.training or world_size() == 1:
            return super().forward(x)
        wide = x.float()
        count = summed(wide.new_tensor(x.numel() / x.shape[1]))
        mean = _total(wide) / count
        variance = _total((wide - mean[:, None, None]).square()) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            momentum = 0.1 if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * count / (count - 1), momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (wide * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]).to(x.dtype)


def synchronise_norms(module: nn.Module) -> None:
    """Replace every batch norm in the module by one over all processes. Frozen norms stay."""
    for name, child in list(module.named_children()):
        if type(child) is nn.BatchNorm2d:
            synchronised = SyncBatchNorm2d(child.num_features, child.eps, child.momentum).to(child.weight.device)
            synchronised.load_state_dict(child.state_dict())
            for parameter, old in zip(synchronised.parameters(), child.parameters(), strict=True):
                parameter.requires_grad_(old.requires_grad)
            setattr(module, name, synchronised)
        else:
            synchronise_norms(child)


def _total(values: Tensor) -> Tensor:
    """The sum [C] of values [N, C, H, W] over the pixels of all processes."""
    total: Tensor = _Summed.apply(values.sum(dim=(0, 2, 3)))
    return total
