"""Dilated depthwise convolution with a fast gradient on CPUs.

It computes `F.conv2d` with `groups=C`, stride 1, and the same dilation and padding on both axes. The CPU kernel takes
channels-last maps and sums in float32 or better. The order of its sums does not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from detector.ops._library import Context, register

LARGEST_KERNEL = 7


def depthwise_conv(x: Tensor, kernel: Tensor, bias: Tensor | None, *, dilation: int, padding: int) -> Tensor:
    """Each channel of x [N, C, H, W] convolved with its own kernel: [N, C, H', W'], channels-last, in x's dtype.

    H' is H + 2 padding - dilation (k - 1), W' likewise.

    Args:
        x: maps; channels-last maps are not copied.
        kernel: [C, 1, k, k] with k odd and at most LARGEST_KERNEL.
        bias: [C], or None for 0.
        dilation: distance of neighbouring taps in cells.
        padding: cells of zeros around the map, at most dilation (k - 1).

    Raises:
        ValueError: a wrong shape, dilation or padding.
    """
    channels, k = x.shape[1], kernel.shape[-1]
    if kernel.shape != (channels, 1, k, k) or k % 2 == 0 or k > LARGEST_KERNEL:
        raise ValueError(
            f"depthwise_conv: expected a kernel [{channels}, 1, k, k] with odd k up to {LARGEST_KERNEL}, got "
            f"{list(kernel.shape)}"
        )
    reach = dilation * (k - 1)
    if dilation < 1 or not 0 <= padding <= reach or min(x.shape[2:]) + 2 * padding <= reach:
        raise ValueError(
            f"depthwise_conv: expected a dilation of 1 or more and a padding of 0 to {reach} with an output of at "
            f"least one cell, got dilation {dilation} and padding {padding} for maps of {list(x.shape)}"
        )
    sums = torch.float64 if x.dtype == torch.float64 else torch.float32
    bias = kernel.new_zeros(channels) if bias is None else bias
    taps = kernel[:, 0].permute(1, 2, 0).to(sums)
    out: Tensor = _depthwise(x.permute(0, 2, 3, 1), taps, bias.to(sums), dilation, padding)
    return out.permute(0, 3, 1, 2)


def _reference(x: Tensor, kernel: Tensor, bias: Tensor, dilation: int, padding: int) -> Tensor:
    """The output [N, H', W', C] from x [N, H, W, C], kernel [k, k, C] and bias [C]."""
    maps, weight = x.permute(0, 3, 1, 2), kernel.permute(2, 0, 1)[:, None].to(x.dtype)
    out = F.conv2d(maps, weight, bias.to(x.dtype), 1, padding, dilation, maps.shape[1])
    return out.permute(0, 2, 3, 1).contiguous()


def _fake(x: Tensor, kernel: Tensor, bias: Tensor, dilation: int, padding: int) -> Tensor:
    num_images, height, width, channels = x.shape
    grown = 2 * padding - dilation * (kernel.shape[0] - 1)
    return x.new_empty((num_images, height + grown, width + grown, channels))


def _setup(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, kernel, _, dilation, padding = inputs
    ctx.options = (dilation, padding)
    ctx.save_for_backward(x, kernel)


def _backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, kernel = ctx.saved_tensors
    to_x = _input_grad(grad, kernel, *ctx.options) if ctx.needs_input_grad[0] else None
    to_kernel = _weight_grad(grad, x, kernel.shape[0], *ctx.options) if ctx.needs_input_grad[1] else None
    to_bias = grad.sum((0, 1, 2), dtype=kernel.dtype) if ctx.needs_input_grad[2] else None
    return to_x, to_kernel, to_bias, None, None


def _input_grad(grad: Tensor, kernel: Tensor, dilation: int, padding: int) -> Tensor:
    """The gradient of the maps: a convolution with the kernel rotated by 180 degrees."""
    rotated = kernel.flip((0, 1))
    mirrored = dilation * (kernel.shape[0] - 1) - padding
    input_grad: Tensor = _depthwise(grad, rotated, kernel.new_zeros(kernel.shape[2]), dilation, mirrored)
    return input_grad


def _weights_reference(grad: Tensor, x: Tensor, k: int, dilation: int, padding: int) -> Tensor:
    """The gradient [k, k, C] of the kernel, from the output's gradient [N, H', W', C] and x [N, H, W, C]."""
    maps, sums = x.permute(0, 3, 1, 2), torch.float64 if x.dtype == torch.float64 else torch.float32
    size, channels = (maps.shape[1], 1, k, k), maps.shape[1]
    weights: Tensor = conv2d_weight(
        maps.to(sums), size, grad.permute(0, 3, 1, 2).to(sums), 1, padding, dilation, channels
    )
    return weights[:, 0].permute(1, 2, 0).contiguous()


def _weights_fake(grad: Tensor, x: Tensor, k: int, dilation: int, padding: int) -> Tensor:
    return x.new_empty((k, k, x.shape[3]), dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


def _weights_setup(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, x, _, dilation, padding = inputs
    ctx.options = (dilation, padding)
    ctx.save_for_backward(grad, x)


def _weights_backward(ctx: Context, second: Tensor) -> tuple[Tensor | None, ...]:
    grad, x = ctx.saved_tensors
    to_grad = _depthwise(x, second, second.new_zeros(x.shape[3]), *ctx.options) if ctx.needs_input_grad[0] else None
    to_x = _input_grad(grad, second, *ctx.options) if ctx.needs_input_grad[1] else None
    return to_grad, to_x, None, None, None


_depthwise = register("depthwise", _reference, _fake, _setup, _backward)
_weight_grad = register("depthwise_weight_grad", _weights_reference, _weights_fake, _weights_setup, _weights_backward)
