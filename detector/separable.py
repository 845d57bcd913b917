"""Depthwise separable convolution: a 3x3 convolution of each single channel, then a 1x1 convolution of all channels.

It needs an eighth to a ninth of the arithmetic of a dense 3x3. Source: Howard et al. 2017, "MobileNets", section 3.1.
"""

import torch
from torch import nn


class SeparableConv2d(nn.Sequential):
    """A 3x3 convolution [N, in_channels, H, W] -> [N, out_channels, H, W] in two parts, depthwise and pointwise."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        pointwise = nn.Conv2d(in_channels, out_channels, 1)
        super().__init__(depthwise, pointwise)
        # Each layer keeps the variance of its input, so that the two start like one dense layer.
        nn.init.kaiming_normal_(depthwise.weight, nonlinearity="linear")
        nn.init.kaiming_normal_(pointwise.weight, nonlinearity="linear")
        if pointwise.bias is not None:
            nn.init.zeros_(pointwise.bias)


def conv3x3(in_channels: int, out_channels: int, *, separable: bool) -> nn.Module:
    """Return a 3x3 convolution, dense or separable, that keeps the size of the map."""
    if separable:
        return SeparableConv2d(in_channels, out_channels)
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


@torch.no_grad()
def pass_through(conv: nn.Module) -> None:
    """Set the weights of a `conv3x3` so that it returns its input. It must have as many outputs as inputs."""
    layers = list(conv) if isinstance(conv, SeparableConv2d) else [conv]
    for layer in layers:
        assert isinstance(layer, nn.Conv2d)
        nn.init.dirac_(layer.weight, groups=layer.groups)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
