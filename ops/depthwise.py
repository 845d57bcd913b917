"""Depthwise convolution with strides and dilation, with a fast gradient on CPUs.

It computes `F.conv2d` with `groups=C` and the same stride, dilation and padding on both axes. The CPU kernel takes
channels-last maps and sums in float32 or better. The order of its sums does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from detector.ops._library import Context, register

LARGEST_KERNEL = 7


def depthwise_conv(
    x: Tensor, kernel: Tensor, bias: Tensor | None, *, stride: int = 1, dilation: int = 1, padding: int = 0
) -> Tensor:
    """Each channel of x [N, C, H, W] convolved with its own kernel: [N, C, H', W'], channels-last, in x's dtype.

    H' is (H + 2 padding - dilation (k - 1) - 1) // stride + 1, W' likewise.

    Args:
        x: maps; channels-last maps are not copied.
        kernel: [C, 1, k, k] with k odd and at most LARGEST_KERNEL.
        bias: [C], or None for 0.
        stride: distance of neighbouring outputs in cells.
        dilation: distance of neighbouring taps in cells.
        padding: cells of zeros around the map, at most dilation (k - 1).

    Raises:
        ValueError: a wrong shape, stride, dilation or padding.
    """
    channels, k = x.shape[1], kernel.shape[-1]
    if kernel.shape != (channels, 1, k, k) or k % 2 == 0 or k > LARGEST_KERNEL:
        raise ValueError(
            f"depthwise_conv: expected a kernel [{channels}, 1, k, k] with odd k up to {LARGEST_KERNEL}, got "
            f"{list(kernel.shape)}"
        )
    reach = dilation * (k - 1)
    if min(stride, dilation) < 1 or not 0 <= padding <= reach or min(x.shape[2:]) + 2 * padding <= reach:
        raise ValueError(
            f"depthwise_conv: expected a stride and a dilation of 1 or more and a padding of 0 to {reach} with an "
            f"output of at least one cell, got stride {stride}, dilation {dilation} and padding {padding} for maps of "
            f"{list(x.shape)}"
        )
    bias = kernel.new_zeros(channels) if bias is None else bias
    sums = _sums(x)
    taps = kernel[:, 0].permute(1, 2, 0).to(sums)
    out: Tensor = _depthwise(x, taps, bias.to(sums), stride, dilation, padding)
    return out


def _sums(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _new_maps(like: Tensor, size: Sequence[int]) -> Tensor:
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _weight(kernel: Tensor, dtype: torch.dtype) -> Tensor:
    """[C, 1, k, k] from [k, k, C]."""
    return kernel.permute(2, 0, 1)[:, None].to(dtype)


def _reference(x: Tensor, kernel: Tensor, bias: Tensor, stride: int, dilation: int, padding: int) -> Tensor:
    """The output [N, C, H', W'] from x [N, C, H, W], kernel [k, k, C] and bias [C]."""
    out = F.conv2d(x, _weight(kernel, x.dtype), bias.to(x.dtype), stride, padding, dilation, x.shape[1])
    return out.contiguous(memory_format=torch.channels_last)


def _fake(x: Tensor, kernel: Tensor, bias: Tensor, stride: int, dilation: int, padding: int) -> Tensor:
    num_images, channels, height, width = x.shape
    last = 2 * padding - dilation * (kernel.shape[0] - 1) - 1
    return _new_maps(x, (num_images, channels, (height + last) // stride + 1, (width + last) // stride + 1))


def _setup(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, kernel, _, *ctx.options = inputs  # type: ignore[assignment]
    ctx.save_for_backward(x, kernel)


def _backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, kernel = ctx.saved_tensors
    to_x = _input_grad(grad, kernel, x.shape, *ctx.options) if ctx.needs_input_grad[0] else None
    to_kernel = _weight_grad(grad, x, kernel.shape[0], *ctx.options) if ctx.needs_input_grad[1] else None
    to_bias = grad.sum((0, 2, 3), dtype=kernel.dtype) if ctx.needs_input_grad[2] else None
    return to_x, to_kernel, to_bias, None, None, None


def _input_reference(grad: Tensor, kernel: Tensor, size: list[int], stride: int, dilation: int, padding: int) -> Tensor:
    """The gradient of the maps, of `size` [N, C, H, W], from the output's gradient [N, C, H', W'] and the kernel."""
    maps: Tensor = conv2d_input(size, _weight(kernel, grad.dtype), grad, stride, padding, dilation, size[1])
    return maps.contiguous(memory_format=torch.channels_last)


def _input_fake(grad: Tensor, kernel: Tensor, size: list[int], stride: int, dilation: int, padding: int) -> Tensor:
    return _new_maps(grad, size)


def _input_setup(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, kernel, _, *ctx.options = inputs  # type: ignore[assignment]
    ctx.save_for_backward(grad, kernel)


def _input_backward(ctx: Context, second: Tensor) -> tuple[Tensor | None, ...]:
    grad, kernel = ctx.saved_tensors
    no_bias = kernel.new_zeros(kernel.shape[2])
    to_grad = _depthwise(second, kernel, no_bias, *ctx.options) if ctx.needs_input_grad[0] else None
    to_kernel = _weight_grad(grad, second, kernel.shape[0], *ctx.options) if ctx.needs_input_grad[1] else None
    return to_grad, to_kernel, None, None, None, None


def _weights_reference(grad: Tensor, x: Tensor, k: int, stride: int, dilation: int, padding: int) -> Tensor:
    """The gradient [k, k, C] of the kernel, from the output's gradient [N, C, H', W'] and x [N, C, H, W]."""
    channels, sums = x.shape[1], _sums(x)
    shape = (channels, 1, k, k)
    weights: Tensor = conv2d_weight(x.to(sums), shape, grad.to(sums), stride, padding, dilation, channels)
    return weights[:, 0].permute(1, 2, 0).contiguous()


def _weights_fake(grad: Tensor, x: Tensor, k: int, stride: int, dilation: int, padding: int) -> Tensor:
    return x.new_empty((k, k, x.shape[1]), dtype=_sums(x))


def _weights_setup(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, x, _, *ctx.options = inputs  # type: ignore[assignment]
    ctx.save_for_backward(grad, x)


def _weights_backward(ctx: Context, second: Tensor) -> tuple[Tensor | None, ...]:
    grad, x = ctx.saved_tensors
    to_grad = _depthwise(x, second, second.new_zeros(x.shape[1]), *ctx.options) if ctx.needs_input_grad[0] else None
    to_x = _input_grad(grad, second, x.shape, *ctx.options) if ctx.needs_input_grad[1] else None
    return to_grad, to_x, None, None, None, None


_depthwise = register("depthwise", _reference, _fake, _setup, _backward)
_input_grad = register("depthwise_input_grad", _input_reference, _input_fake, _input_setup, _input_backward)
_weight_grad = register("depthwise_weight_grad", _weights_reference, _weights_fake, _weights_setup, _weights_backward)
