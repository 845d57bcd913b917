"""Holes in place of strides: deep layers see as far as before, on a map that stays fine (R-FCN 2.1, "a trous")."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from detector.ops.depthwise import LARGEST_KERNEL, depthwise_conv

SIDE = 512  # of the image that strides are measured on; it is never computed


def limit_stride(network: nn.Module, most: int) -> None:
    """Lets no convolution of `network` shrink its input below one cell for every `most` pixels, in place.

    One that would keeps the map as it is; those behind it are dilated by what was left out, so each weight still meets
    the cells it was trained on. `most` is a power of two. Strides of poolings stay.

    Raises ValueError for a network that does not take an image of SIDE pixels.
    """
    if most < 1 or most & (most - 1):
        raise ValueError(f"expected a largest stride that is a power of two, got {most}")
    for conv, stride in _strides(network):
        rate = max(1, stride // most)
        conv.stride = tuple(min(step, max(1, most // stride)) for step in conv.stride)
        conv.dilation = tuple(holes * rate for holes in conv.dilation)
        if not isinstance(conv.padding, str):  # "same" and "valid" follow by themselves
            conv.padding = tuple(cells * rate for cells in conv.padding)


def _strides(network: nn.Module) -> list[tuple[nn.Conv2d, int]]:
    """The convolutions in the order of their calls, each with the pixels that a cell of its input stands for."""
    found: list[tuple[nn.Conv2d, int]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        cells = max(inputs[0].shape[2:])
        found.append((module, 1 << round(math.log2(SIDE / cells))))  # without padding cells are lost

    hooks = [module.register_forward_pre_hook(note) for module in network.modules() if isinstance(module, nn.Conv2d)]
    state = {key: value.to("meta") for key, value in network.state_dict().items()}
    try:
        functional_call(network, state, torch.empty(2, 3, SIDE, SIDE, device="meta"))
    except (AssertionError, RuntimeError) as error:  # what a network of one input size says
        raise ValueError(f"the network does not take an image of {SIDE} x {SIDE} pixels ({error})") from error
    finally:
        for hook in hooks:
            hook.remove()
    return found


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, conv: nn.Conv2d) -> Tensor:
    """What `conv` computes of x [N, C, H, W] with another kernel and bias.

    Where it trains on a CPU, a dilated depthwise convolution goes to an operator of our own: the library's gradient of
    one takes 3 (float32) to 30 (bfloat16) times that of a plain one. Exported and evaluated models stay plain.
    """
    if x.device.type == "cpu" and torch.is_grad_enabled() and _is_dilated_depthwise(conv):
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        assert not isinstance(conv.padding, str)
        return depthwise_conv(x, kernel, bias, dilation=conv.dilation[0], padding=conv.padding[0])
    return F.conv2d(x, kernel, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def _is_dilated_depthwise(conv: nn.Conv2d) -> bool:
    """On each channel alone, without strides, dilated, and the same both ways."""
    side, rate = conv.kernel_size[0], conv.dilation[0]
    return (
        rate > 1
        and conv.groups == conv.in_channels == conv.out_channels
        and side % 2 == 1
        and side <= LARGEST_KERNEL
        and conv.kernel_size == (side, side)
        and conv.stride == (1, 1)
        and conv.dilation == (rate, rate)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and conv.padding == (conv.padding[0],) * 2
        and conv.padding[0] <= rate * (side - 1)
    )
