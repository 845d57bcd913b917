"""Position-sensitive RoIAlign: bin (i, j) of a class averages bilinear samples of score map (i, j) of that class.

Coordinates are not rounded. This is torchvision's operator, not the layer that R-FCN published (`ps_roi_pool`).
Source: torchvision `ps_roi_align`; R-FCN eq. 1 for the maps, Mask R-CNN 3 for the samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detector.ops._library import Context, register
from detector.ops._score_maps import Spans, checked_arguments, mean_backward, weighted_sums
from detector.ops.roi_pool import image_index

# Maximum number of samples per bin and axis, for a RoI of any size.
MAX_SAMPLES = 1 << 15

# Extra samples at each end of the window of samples that may lie on the map, because of rounding errors.
MARGIN = 2


def ps_roi_align(
    score_maps: Tensor,
    rois: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float,
    *,
    sampling_ratio: int = 0,
) -> Tensor:
    """Scores [R, D, k, k] of each class in the bins of each RoI, in the dtype of the score maps.

    Args:
        score_maps: [N, D * k * k, H, W], contiguous or channels-last; channel (d * k + i) * k + j serves class d in
            bin (i, j), i counted downwards.
        rois: [R, 5] (image index, x1, y1, x2, y2) in input pixels, or a list of [R_i, 4], one tensor per image;
            half-open boxes.
        output_size: bins per side, an int k or a pair (k, k).
        spatial_scale: cells per input pixel, such as 1/16.
        sampling_ratio: samples per bin and axis; 0 takes the height (width) of the bin in cells, rounded up.

    Corners are scaled, then shifted by half a cell; there is no minimum size. Samples are at (i + 0.5) / n of the bin.
    A sample more than one cell outside the map counts as 0; other samples outside are moved to the border. A bin
    without samples (adaptive sampling of an empty RoI) gives 0. Sums are accumulated in float32 or better. Coordinates
    are computed in float32, in float64 for float64 score maps. RoIs get no gradient.

    Raises:
        ValueError: a wrong shape, dtype, device, image index or option.
    """
    rois, bins = checked_arguments("ps_roi_align", score_maps, rois, output_size)
    if sampling_ratio < 0:
        raise ValueError(f"ps_roi_align: expected sampling_ratio of at least 0, got {sampling_ratio}; 0 adapts to size")
    pooled: Tensor = _ps_roi_align(score_maps, rois, bins, spatial_scale, sampling_ratio)
    return pooled


def samples(
    low: Tensor, high: Tensor, bins: int, spatial_scale: float, sampling_ratio: int, size: int
) -> tuple[Spans, Tensor]:
    """Cells with bilinear weights that the samples of each bin read along one axis, and samples per bin [R].

    `low` and `high` [R] are the RoIs' ends in input pixels. Only samples near the map are listed, so that a huge RoI
    costs no more than a RoI of the map's size. The number of samples per bin counts all samples.
    """
    start, end = low * spatial_scale - 0.5, high * spatial_scale - 0.5
    finite = low.isfinite() & high.isfinite()
    start, end = start.where(finite, 0), end.where(finite, 0)
    bin_size = (end - start) / low.new_full((), bins)
    count = torch.full_like(low, sampling_ratio) if sampling_ratio > 0 else bin_size.ceil().clamp(0, MAX_SAMPLES)
    count = count.where(finite, 0)[:, None]
    bin_size = bin_size[:, None]
    position = torch.arange(bins, dtype=low.dtype, device=low.device)
    bin_start = position * bin_size + start[:, None]  # [R, k]
    # Indices of the first and the last sample that can lie in -1..size: a sample is at bin_start + (i + 0.5) * step.
    step = bin_size / count.clamp(min=1)
    ends = torch.stack((-1 - bin_start, size - bin_start)) / step - 0.5
    first = (ends.amin(dim=0).nan_to_num(nan=0.0).floor() - MARGIN).clamp(min=0)
    last = (ends.amax(dim=0).nan_to_num(nan=torch.inf).ceil() + MARGIN).minimum(count - 1)
    longest = int((last - first + 1).max().clamp(min=0)) if low.numel() else 0
    index = first[..., None] + torch.arange(longest, dtype=low.dtype, device=low.device)  # [R, k, S]
    place = bin_start[..., None] + (index + 0.5) * bin_size[..., None] / count[..., None].clamp(min=1)
    valid = (index <= last[..., None]) & (place >= -1) & (place <= size)
    place = place.where(valid, 0).clamp(min=0)
    near = place.floor().clamp(max=size - 1)
    far_weight = (place - near).where(near < size - 1, 0)
    cells = torch.cat((near, (near + 1).clamp(max=size - 1)), dim=-1).to(torch.int64)
    weights = torch.cat((1 - far_weight, far_weight), dim=-1)
    return Spans(cells, weights, torch.cat((valid, valid), dim=-1)), count[:, 0]


def _rows_and_columns(
    rois: Tensor, bins: int, spatial_scale: float, sampling_ratio: int, size: Sequence[int]
) -> tuple[Spans, Spans, Tensor]:
    """Samples along rows and along columns, and the number of samples per bin [R, 1, 1, 1], at least 1."""
    rows, down = samples(rois[:, 2], rois[:, 4], bins, spatial_scale, sampling_ratio, size[2])
    columns, across = samples(rois[:, 1], rois[:, 3], bins, spatial_scale, sampling_ratio, size[3])
    return rows, columns, (down * across).clamp(min=1)[:, None, None, None]


def _reference(score_maps: Tensor, rois: Tensor, bins: int, spatial_scale: float, sampling_ratio: int) -> Tensor:
    rows, columns, count = _rows_and_columns(rois, bins, spatial_scale, sampling_ratio, score_maps.shape)
    sums = weighted_sums(score_maps, image_index(rois, score_maps.shape[0]), rows, columns)
    return (sums / count).to(score_maps.dtype).contiguous()


def _fake(score_maps: Tensor, rois: Tensor, bins: int, spatial_scale: float, sampling_ratio: int) -> Tensor:
    return score_maps.new_empty((rois.shape[0], score_maps.shape[1] // (bins * bins), bins, bins))


def _setup(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    score_maps, rois, _, spatial_scale, sampling_ratio = inputs
    ctx.options = (score_maps.shape, spatial_scale, sampling_ratio)
    ctx.save_for_backward(rois)


def _gradient(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _ps_roi_align_backward(grad, *ctx.saved_tensors, *ctx.options), None, None, None, None


def _backward_reference(
    grad: Tensor, rois: Tensor, size: Sequence[int], spatial_scale: float, sampling_ratio: int
) -> Tensor:
    """Gradient [N, D * k * k, H, W] of the score maps."""
    rows, columns, count = _rows_and_columns(rois, grad.shape[-1], spatial_scale, sampling_ratio, size)
    shares = grad.to(torch.promote_types(grad.dtype, torch.float32)) / count
    return mean_backward(shares, image_index(rois, size[0]), rows, columns, size).to(grad.dtype)


def _backward_fake(
    grad: Tensor, rois: Tensor, size: Sequence[int], spatial_scale: float, sampling_ratio: int
) -> Tensor:
    return grad.new_empty(size)


def _backward_setup(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, rois, _, spatial_scale, sampling_ratio = inputs
    ctx.options = (grad.shape[-1], spatial_scale, sampling_ratio)
    ctx.save_for_backward(rois)


def _backward_gradient(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _ps_roi_align(grad, *ctx.saved_tensors, *ctx.options), None, None, None, None


_ps_roi_align = register("ps_roi_align", _reference, _fake, _setup, _gradient)
_ps_roi_align_backward = register(
    "ps_roi_align_backward", _backward_reference, _backward_fake, _backward_setup, _backward_gradient
)
