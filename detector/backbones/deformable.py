"""Deformable convolution (Deformable Convolutional Networks, 2.1): each weight of a kernel reads at a learned place.

          +--3x3, same stride and dilation--> offsets [N, 2 * 9, H, W]
    x ----+                                      v
          +--3x3 with nine moved samples per cell--> y

The offset layer starts at 0. At first the output is that of the plain convolution, whose weights it keeps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from detector.backbones.torchvision_library import deform_conv2d


class DeformableConv2d(nn.Module):
    """A plain convolution whose samples move."""

    def __init__(self, conv: nn.Conv2d) -> None:
        """`conv` is the convolution to replace. Its weight becomes this layer's, under the same name.

        Raises ValueError for a convolution with a bias, groups, or padding other than a number of cells.
        """
        super().__init__()
        if conv.bias is not None or conv.groups != 1 or isinstance(conv.padding, str):
            raise ValueError(f"expected a convolution without bias and groups, padded by a number of cells, got {conv}")
        self.weight = conv.weight
        self.options: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
        height, width = conv.kernel_size
        # Channel 2 i moves weight i down, channel 2 i + 1 moves it to the right, in cells of x.
        self.offset = nn.Conv2d(conv.in_channels, 2 * height * width, (height, width), **self.options)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return maps [N, out_channels, H, W] of x [N, in_channels, H', W']; samples outside x are 0."""
        offset = self.offset(x)
        # Not under autocast: in bf16 or fp16 the weights of the bilinear samples would be too coarse.
        with torch.autocast(x.device.type, enabled=False):
            wide = self.weight.dtype
            y: Tensor = deform_conv2d(x.to(wide), offset.to(wide), self.weight, **self.options)
        return y.to(offset.dtype)


def deform(stage: nn.Module) -> None:
    """Replace every 3x3 convolution in `stage` by a deformable one with the same weight, in place."""
    for path, module in list(stage.named_modules()):
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            stage.set_submodule(path, DeformableConv2d(module))
