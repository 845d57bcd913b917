"""Activations that train without a copy of their input.

torch's gradient of an in-place ReLU6, SiLU or Hardswish needs the input, so autograd copies it before each call: on a
CPU that is one more pass over every map. Here ReLU6's gradient comes from its output, as ReLU's does. The others write
a new map instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TOP = 6.0  # of ReLU6


def without_copies(network: nn.Module) -> None:
    """Change the in-place activations of `network` so that training copies no map. Values and gradients stay."""
    for path, module in list(network.named_modules()):
        if type(module) is nn.ReLU6 and module.inplace and path:
            network.set_submodule(path, ReLU6())
        elif isinstance(module, nn.SiLU | nn.Hardswish):
            module.inplace = False


class ReLU6(nn.Module):
    """ReLU6 in place: min(max(x, 0), 6) replaces x of any shape and float dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x after the activation."""
        if x.requires_grad and torch.is_grad_enabled() and not (torch.compiler.is_compiling() or x._is_view()):
            changed: Tensor = _ClampInPlace.apply(x)
            return changed
        return F.relu6(x, inplace=not x.requires_grad)


class _ClampInPlace(torch.autograd.Function):
    """x clamped to 0..TOP in place. Its gradient comes from the result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(x.clamp_(0.0, TOP))
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        slope: Tensor = torch.ops.aten.hardtanh_backward(grad, result, 0.0, TOP)
        return slope
