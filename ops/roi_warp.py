"""RoIWarp: crop each RoI and warp it to a fixed grid, with gradients for the features and for the RoI's corners.

This is the continuous form that the paper describes, not its released kernel. The released kernel rounds the corners,
takes maxima of several samples, and its coordinate gradient does not match its forward pass. Here output (p, q) is one
bilinear sample at the centre of bin (p, q): RoIAlign with `aligned=True` and one sample. The paper's cascade warps to
14 x 14, then max-pools to 7 x 7.
Source: Instance-aware Semantic Segmentation via Multi-task Network Cascades (MNC) 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detector.ops._arguments import checked_rois, output_pair
from detector.ops._library import Context, register
from detector.ops.sample_grid import make_grid, neighbours

_ALIGN = (1, True, False)  # sampling_ratio, aligned, inner


def roi_warp(
    features: Tensor, rois: Tensor | Sequence[Tensor], output_size: int | Sequence[int], spatial_scale: float
) -> Tensor:
    """Samples [R, C, height, width] at the bin centres of each RoI, in the dtype of the features.

    Args:
        features: [N, C, H, W], contiguous or channels-last.
        rois: [R, 5] (image index, x1, y1, x2, y2) in input pixels, or a list of [R_i, 4], one tensor per image; the
            four coordinates get a gradient.
        output_size: samples per RoI, an int or a pair (height, width).
        spatial_scale: feature cells per input pixel, such as 1/16.

    A sample more than one cell outside the map is 0. The gradient of the coordinates is the slope of the bilinear
    surface: it jumps at cell centres, and is 0 along an axis on which the sample is clamped to the border.

    Raises:
        ValueError: a wrong shape, dtype, device or image index.

    Source: MNC 3.2, in its continuous form (see the module's docstring).
    """
    height, width = output_pair("roi_warp", output_size)
    warped: Tensor = _warp(features, checked_rois("roi_warp", features, rois), height, width, spatial_scale)
    return warped


def _reference(features: Tensor, rois: Tensor, height: int, width: int, spatial_scale: float) -> Tensor:
    warped: Tensor = torch.ops.fast_rfcn.roi_align.default(features, rois, height, width, spatial_scale, *_ALIGN)
    return warped


def _fake(features: Tensor, rois: Tensor, height: int, width: int, spatial_scale: float) -> Tensor:
    return features.new_empty((rois.shape[0], features.shape[1], height, width))


def _setup(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, rois, _, _, spatial_scale = inputs
    ctx.options = (spatial_scale,)
    ctx.save_for_backward(features, rois)


def _backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    features, rois = ctx.saved_tensors
    if ctx.needs_input_grad[1]:
        return *_grads(grad, features, rois, *ctx.options), None, None, None
    grad_features = torch.ops.fast_rfcn.roi_align_backward.default(grad, rois, features.shape, *ctx.options, *_ALIGN)
    return grad_features, None, None, None, None


def _grads_reference(grad: Tensor, features: Tensor, rois: Tensor, spatial_scale: float) -> tuple[Tensor, Tensor]:
    """Gradients [N, C, H, W] of the features and [R, 5] of the RoIs (0 for the image index)."""
    size = features.shape
    grad_features = torch.ops.fast_rfcn.roi_align_backward.default(grad, rois, size, spatial_scale, *_ALIGN)
    return grad_features, _roi_gradient(grad, features, rois, spatial_scale)


def _roi_gradient(grad: Tensor, features: Tensor, rois: Tensor, spatial_scale: float) -> Tensor:
    """Gradient [R, 5] of the RoIs, computed with differentiable operations; linear in grad and in features."""
    num_rois, _, height, width = grad.shape
    if grad.numel() == 0 or features.numel() == 0:
        return torch.zeros_like(rois)
    size = features.shape
    grid = make_grid(rois, size, height, width, spatial_scale, *_ALIGN)
    roi = torch.arange(num_rois, device=rois.device)[:, None]
    y = grid.rows.at(roi, torch.arange(height, device=rois.device)[None], torch.zeros_like(roi))  # [R, h]
    x = grid.columns.at(roi, torch.arange(width, device=rois.device)[None], torch.zeros_like(roi))  # [R, w]
    top, bottom, weight_top, weight_bottom = neighbours(y, size[2])
    left, right, weight_left, weight_right = neighbours(x, size[3])
    known = (grid.images >= 0)[:, None]
    moves_y, moves_x = _not_clamped(y, size[2]) & known, _not_clamped(x, size[3]) & known
    inside = (weight_top + weight_bottom)[:, :, None] * (weight_left + weight_right)[:, None, :] > 0
    table = features.permute(0, 2, 3, 1)  # [N, H, W, C]
    image = grid.images.clamp(min=0)[:, None, None]
    sums = []  # sums of grad x corner over the channels, [R, h, w] each
    for row in (top, bottom):
        for column in (left, right):
            corner = table[image, row[:, :, None], column[:, None, :]].to(rois.dtype)  # [R, h, w, C]
            sums.append(torch.einsum("rchw,rhwc->rhw", grad.to(rois.dtype), corner).where(inside, 0))
    top_left, top_right, bottom_left, bottom_right = sums
    on_left, on_right = weight_left[:, None, :], weight_right[:, None, :]
    on_top, on_bottom = weight_top[:, :, None], weight_bottom[:, :, None]
    down = (on_left * (bottom_left - top_left) + on_right * (bottom_right - top_right)).sum(2)
    right = (on_top * (top_right - top_left) + on_bottom * (bottom_right - bottom_left)).sum(1)
    grad_y, grad_x = down.where(moves_y, 0), right.where(moves_x, 0)
    # A sample at fraction f from the first corner moves by 1 - f per unit of the first and by f per unit of the second.
    part_y = (torch.arange(height, device=rois.device, dtype=rois.dtype) + 0.5) / height
    part_x = (torch.arange(width, device=rois.device, dtype=rois.dtype) + 0.5) / width
    moved = ((grad_x * (1 - part_x)), (grad_y * (1 - part_y)), (grad_x * part_x), (grad_y * part_y))
    return torch.stack((torch.zeros_like(rois[:, 0]), *(part.sum(1) * spatial_scale for part in moved)), dim=1)


def _not_clamped(position: Tensor, size: int) -> Tensor:
    """Return whether a sample is neither outside the map nor clamped to the border."""
    return (position >= 0) & (position < size - 1)


def _grads_fake(grad: Tensor, features: Tensor, rois: Tensor, spatial_scale: float) -> tuple[Tensor, Tensor]:
    return features.new_empty(features.shape), torch.empty_like(rois)


def _grads_setup(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, spatial_scale = inputs
    ctx.options = (spatial_scale,)
    ctx.save_for_backward(*tensors)


def _grads_backward(ctx: Context, second_features: Tensor, second_rois: Tensor) -> tuple[Tensor | None, ...]:
    grad, _, rois = ctx.saved_tensors
    inputs = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
    with torch.enable_grad():
        gradient = _roi_gradient(inputs[0], inputs[1], inputs[2], *ctx.options)
        to_grad, to_features, to_rois = torch.autograd.grad(
            gradient, inputs, second_rois, allow_unused=True, materialize_grads=True
        )
    # The gradient of the features is linear in grad, with the RoIs' weights. Its transpose is the operator itself.
    to_grad = to_grad + _warp(second_features, rois, grad.shape[2], grad.shape[3], *ctx.options)
    to_rois = to_rois + _roi_gradient(grad, second_features, rois, *ctx.options)
    return to_grad, to_features, to_rois, None


_warp = register("roi_warp", _reference, _fake, _setup, _backward)
_grads = register("roi_warp_backward", _grads_reference, _grads_fake, _grads_setup, _grads_backward)
