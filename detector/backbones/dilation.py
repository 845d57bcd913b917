"""Holes in place of strides: deep layers see as far as before, on a map that stays fine (R-FCN 2.1, "a trous")."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

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
    """What `conv` computes of x [N, C, H, W] with another kernel and bias."""
    if x.device.type == "cpu" and torch.is_grad_enabled() and _is_dilated_depthwise(conv):
        return _without_holes(x, kernel, bias, conv.dilation[0])
    return F.conv2d(x, kernel, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def _is_dilated_depthwise(conv: nn.Conv2d) -> bool:
    """3x3 on each channel alone, dilated by one rate both ways, the map's size kept."""
    rate = conv.dilation[0]
    return (
        rate > 1
        and conv.groups == conv.in_channels == conv.out_channels
        and (conv.kernel_size, conv.stride) == ((3, 3), (1, 1))
        and conv.dilation == conv.padding == (rate, rate)
    )


def _without_holes(x: Tensor, kernel: Tensor, bias: Tensor | None, rate: int) -> Tensor:
    """A dilated 3x3 as a plain one on each of the rate^2 grids of every rate-th cell: the same sums.

    On a CPU the gradient of a dilated depthwise convolution takes 3 (float32) to 20 (bfloat16) times a plain one's.
    """
    num_images, channels, height, width = x.shape
    padded = F.pad(x, (0, -width % rate, 0, -height % rate)).permute(0, 2, 3, 1)
    rows, columns = padded.shape[1] // rate, padded.shape[2] // rate
    grids = padded.reshape(num_images, rows, rate, columns, rate, channels).permute(2, 4, 0, 1, 3, 5)
    grids = grids.reshape(-1, rows, columns, channels).permute(0, 3, 1, 2)
    out = F.conv2d(grids, kernel, bias, padding=1, groups=channels).permute(0, 2, 3, 1)
    out = out.reshape(rate, rate, num_images, rows, columns, channels).permute(2, 3, 0, 4, 1, 5)
    out = out.reshape(num_images, rows * rate, columns * rate, channels).permute(0, 3, 1, 2)
    return out[:, :, :height, :width]
