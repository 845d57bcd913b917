"""Dilation instead of strides: the map stays fine, and the receptive field stays the same (R-FCN 2.1, "a trous")."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detector.backbones.dry_run import dry_run
from detector.ops.depthwise import LARGEST_KERNEL, depthwise_conv

SIDE = 512  # side of the image that strides are measured with


def limit_stride(network: nn.Module, max_stride: int) -> None:
    """Change the convolutions of `network` in place so that they give no map with a stride above `max_stride`.

    `max_stride` is a power of two. A convolution that would exceed it gets a smaller stride. The convolutions after it
    are dilated by the removed factor, so that each weight still reads the cells that it was trained on. Poolings keep
    their strides.

    Raises ValueError for a network that does not take an image of SIDE pixels.
    """
    if max_stride < 1 or max_stride & (max_stride - 1):
        raise ValueError(f"expected a largest stride that is a power of two, got {max_stride}")
    for conv, stride in _strides(network):
        rate = max(1, stride // max_stride)
        conv.stride = tuple(min(step, max(1, max_stride // stride)) for step in conv.stride)
        conv.dilation = tuple(dilation * rate for dilation in conv.dilation)
        if not isinstance(conv.padding, str):  # "same" and "valid" adapt automatically
            conv.padding = tuple(cells * rate for cells in conv.padding)


def _strides(network: nn.Module) -> list[tuple[nn.Conv2d, int]]:
    """Return the convolutions in the order of their calls, each with the stride of its input."""
    found: dict[nn.Conv2d, int] = {}

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        cells = max(inputs[0].shape[2:])
        found[module] = 1 << round(math.log2(SIDE / cells))  # rounded, since unpadded layers lose cells

    hooks = [module.register_forward_pre_hook(record) for module in network.modules() if isinstance(module, nn.Conv2d)]
    try:
        dry_run(network, SIDE, SIDE)
    except (AssertionError, RuntimeError) as error:  # from a network with a fixed input size
        raise ValueError(f"the network does not take an image of {SIDE} x {SIDE} pixels ({error})") from error
    finally:
        for hook in hooks:
            hook.remove()
    return list(found.items())


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, conv: nn.Conv2d) -> Tensor:
    """Apply `conv` to x [N, C, H, W] with another kernel and bias.

    In training on a CPU, a depthwise convolution with a stride, a dilation or a kernel above 3x3 uses the project's
    operator: the library's gradient takes up to 30 times as long (docs/benchmarks). Exported and evaluated models do
    not use it.
    """
    if x.device.type == "cpu" and torch.is_grad_enabled() and _is_slow_depthwise(conv):
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        assert not isinstance(conv.padding, str)
        stride, dilation, padding = conv.stride[0], conv.dilation[0], conv.padding[0]
        return depthwise_conv(x, kernel, bias, stride=stride, dilation=dilation, padding=padding)
    return F.conv2d(x, kernel, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def _is_slow_depthwise(conv: nn.Conv2d) -> bool:
    """Whether `conv` is depthwise and not a plain 3x3, and equal in both directions."""
    side, rate, stride = conv.kernel_size[0], conv.dilation[0], conv.stride[0]
    return (
        conv.groups == conv.in_channels == conv.out_channels > 1
        and (rate > 1 or stride > 1 or side > 3)
        and side % 2 == 1
        and side <= LARGEST_KERNEL
        and conv.kernel_size == (side, side)
        and conv.stride == (stride, stride)
        and conv.dilation == (rate, rate)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and conv.padding == (conv.padding[0],) * 2
        and conv.padding[0] <= rate * (side - 1)
    )
