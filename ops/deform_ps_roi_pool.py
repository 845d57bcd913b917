"""Deformable position-sensitive RoI pooling: each bin of a RoI moves by an offset that the network predicts.

This is the layer that Deformable R-FCN published, which differs from `ps_roi_align` in more than the offsets: corners
are rounded, samples start at the first edge of a bin, and the mean is over the samples on the map. The published layer
has separate numbers of bins, of maps and of offsets per side (pooled_size, group_size, part_size). Here all are k, as
in the paper's networks.
Source: Dai et al., "Deformable Convolutional Networks" (2017) 2.2; its MXNet layer (deformable_psroi_pooling.cu) for
the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from detector.ops._arguments import edge_dtype
from detector.ops._library import Context, register
from detector.ops._score_maps import GROUP_BYTES, checked_arguments
from detector.ops.ps_roi_pool import MIN_SIZE
from detector.ops.roi_pool import image_index, round_away
from detector.ops.sample_grid import neighbours


def deform_ps_roi_pool(
    score_maps: Tensor,
    rois: Tensor | Sequence[Tensor],
    offsets: Tensor | None,
    output_size: int | Sequence[int],
    spatial_scale: float,
    *,
    offset_scale: float = 0.1,
    sampling_ratio: int = 4,
) -> Tensor:
    """Scores [R, D, k, k] of each class in the moved bins of each RoI, in the dtype of the score maps.

    Args:
        score_maps: [N, D * k * k, H, W], contiguous or channels-last; channel (d * k + i) * k + j serves class d in
            bin (i, j), i counted downwards.
        rois: [R, 5] (image index, x1, y1, x2, y2) in input pixels, or a list of [R_i, 4], one tensor per image. x2
            and y2 are the last pixels inside, see `detector.ops.boxes.to_rois(..., inclusive=True)`.
        offsets: [R, 2 * G, k, k] of any floating dtype; channel 2 * g moves the bins of group g to the right, channel
            2 * g + 1 down. G divides D: class d is in group d // (D / G), so G = D gives each class its own offsets and
            G = 1 moves all classes together. None: the bins stay.
        output_size: bins per side, an int k or a pair (k, k).
        spatial_scale: cells per input pixel, such as 1/16.
        offset_scale: an offset of 1 moves a bin by this fraction of the RoI's width or height; the paper's gamma.
        sampling_ratio: samples per bin and axis.

    Corners are rounded half away from zero, 1 is added to the end, then they are scaled and shifted by half a cell. A
    RoI is at least 0.1 cells wide and high. Sample i of n is at i / n of the bin. A bin is the mean of its samples in
    [-0.5, size - 0.5], which are moved to the border; a bin without such samples gives 0. An offset that is not finite
    gives NaN. Sums are accumulated in float32 or better. Coordinates are computed in float32, in float64 for float64
    score maps. RoIs get no gradient. The gradient of an offset is the slope of the bilinear surface to the right and
    down; it is 0 for a sample that is moved to the border.

    Raises:
        ValueError: a wrong shape, dtype, device, image index or option.

    Source: Deformable Convolutional Networks 2.2, "Position-Sensitive (PS) RoI Pooling", equations 5 and 6.
    """
    rois, bins = checked_arguments("deform_ps_roi_pool", score_maps, rois, output_size)
    if sampling_ratio < 1:
        raise ValueError(
            f"deform_ps_roi_pool: expected sampling_ratio of at least 1, got {sampling_ratio}; the paper's code has 4"
        )
    if offsets is not None:
        offsets = _checked_offsets(offsets, score_maps, rois, bins)
    pooled: Tensor = _pool(score_maps, rois, offsets, bins, spatial_scale, offset_scale, sampling_ratio)
    return pooled


def _checked_offsets(offsets: Tensor, score_maps: Tensor, rois: Tensor, bins: int) -> Tensor:
    """Offsets in the edge dtype."""
    classes = score_maps.shape[1] // (bins * bins)
    fits = offsets.dim() == 4 and offsets.shape[0] == rois.shape[0] and tuple(offsets.shape[2:]) == (bins, bins)
    groups = offsets.shape[1] // 2 if fits and offsets.shape[1] % 2 == 0 else 0
    if groups == 0 or classes % groups != 0 or not offsets.dtype.is_floating_point:
        raise ValueError(
            f"deform_ps_roi_pool: expected offsets [{rois.shape[0]}, 2 * G, {bins}, {bins}] of a floating dtype, where "
            f"G divides the {classes} classes, got {str(offsets.dtype).removeprefix('torch.')} {list(offsets.shape)}; "
            "pool 2 * G * k * k offset maps with offsets=None"
        )
    if offsets.device != score_maps.device:
        raise ValueError(
            f"deform_ps_roi_pool: expected offsets on the device of the score maps, {score_maps.device}, got "
            f"{offsets.device}; move one of them"
        )
    return offsets.to(edge_dtype(score_maps))


class Samples(NamedTuple):
    """The samples of each bin along one axis: each reads two cells, first all lower cells, then all upper cells."""

    cells: Tensor  # [R, G, k, k, 2 n] int64
    weights: Tensor  # [R, G, k, k, 2 n] bilinear weights; 0 for a sample off the map
    slopes: Tensor  # [R, G, k, k, 2 n] change of the weight per cell that the sample moves
    valid: Tensor  # [R, G, k, k, 2 n] bool, False for a sample off the map
    on_map: Tensor  # [R, G, k, k] number of samples on the map
    extent: Tensor  # [R] size of the RoI in cells


def samples(
    low: Tensor, high: Tensor, shift: Tensor, position: Tensor, spatial_scale: float, sampling_ratio: int, size: int
) -> Samples:
    """Samples along one axis of `size` cells.

    `low` and `high` [R] are the RoIs' first and last pixels. `shift` [R, G, k, k] is the offset of each bin as a
    fraction of the RoI's size. `position` [k, 1] or [1, k] counts the bins. The order of operations is the published
    one, in the dtype of `low`.
    """
    bins = position.numel()
    start = round_away(low) * spatial_scale - 0.5
    extent = ((round_away(high) + 1) * spatial_scale - 0.5 - start).clamp(min=MIN_SIZE)
    finite = low.isfinite() & high.isfinite()
    start, extent = start.where(finite, 0), extent.where(finite, 0)
    # Divide by a tensor: torch may turn division by a number into multiplication by 1 / number.
    bin_size = extent / low.new_full((), bins)
    step = bin_size / low.new_full((), sampling_ratio)
    start_of, bin_of, extent_of = (each.view(-1, 1, 1, 1) for each in (start, bin_size, extent))
    first = position * bin_of + start_of + shift * extent_of  # [R, G, k, k]
    index = torch.arange(sampling_ratio, dtype=low.dtype, device=low.device)
    at = first.unsqueeze(-1) + index * step.view(-1, 1, 1, 1, 1)
    valid = (at >= -0.5) & (at <= size - 0.5) & finite.view(-1, 1, 1, 1, 1)
    lower, upper, weight_lower, weight_upper = neighbours(at.where(valid, 0), size)
    follows = (valid & (at >= 0) & (at < size - 1)).to(low.dtype)
    mask = valid.to(low.dtype)
    return Samples(
        cells=torch.cat((lower, upper), dim=-1),
        weights=torch.cat((weight_lower * mask, weight_upper * mask), dim=-1),
        slopes=torch.cat((-follows, follows), dim=-1),
        valid=torch.cat((valid, valid), dim=-1),
        on_map=mask.sum(dim=-1),
        extent=extent,
    )


def rows_and_columns(
    rois: Tensor,
    offsets: Tensor | None,
    bins: int,
    size: Sequence[int],
    spatial_scale: float,
    offset_scale: float,
    sampling_ratio: int,
) -> tuple[Samples, Samples]:
    """Samples along rows and along columns of score maps of `size` [N, D * k * k, H, W].

    `rois` [R, 5] are in input pixels, `offsets` [R, 2 * G, k, k] in `offset_scale` of a RoI's size; None: all are 0.
    """
    if offsets is None:
        offsets = rois.new_zeros((rois.shape[0], 2, bins, bins))
    moves = (offsets * offset_scale).unflatten(1, (-1, 2))  # [R, G, 2, k, k]
    right, down = moves[:, :, 0], moves[:, :, 1]
    position = torch.arange(bins, dtype=rois.dtype, device=rois.device)
    options = (spatial_scale, sampling_ratio)
    rows = samples(rois[:, 2], rois[:, 4], down, position[:, None], *options, size[2])
    columns = samples(rois[:, 1], rois[:, 3], right, position[None], *options, size[3])
    return rows, columns


class _Reads(NamedTuple):
    """The cells that a group of RoIs reads, for C = D / G classes per group of offsets."""

    part: slice  # the RoIs
    cells: Tensor  # [r, G, C, k, k, 2 n, 2 n] int64, index into the flattened score maps
    valid: Tensor  # [r, G, 1, k, k, 2 n, 2 n] bool


def _reads(rois: Tensor, rows: Samples, columns: Samples, size: Sequence[int]) -> Iterator[_Reads]:
    """The cells of all bins, in groups of RoIs whose cells fit GROUP_BYTES."""
    num_images, channels, height, width = size
    groups, bins, reads = rows.cells.shape[1], rows.cells.shape[2], rows.cells.shape[-1]
    images = image_index(rois, num_images)
    plane = torch.arange(channels, device=rois.device).view(groups, -1, bins, bins, 1, 1)
    step = max(1, GROUP_BYTES // max(1, channels * reads * reads * 16))
    for start in range(0, rois.shape[0] if num_images * channels * height * width > 0 else 0, step):
        part = slice(start, start + step)
        image = images[part].view(-1, 1, 1, 1, 1, 1, 1)
        valid = rows.valid[part, :, None, :, :, :, None] & columns.valid[part, :, None, :, :, None, :] & (image >= 0)
        cells = ((image * channels + plane) * height + rows.cells[part, :, None, :, :, :, None]) * width
        yield _Reads(part, (cells + columns.cells[part, :, None, :, :, None, :]).where(valid, 0), valid)


def _sums(values: Tensor, along_rows: Tensor, along_columns: Tensor) -> Tensor:
    """Sums [r, G, C, k, k] of values [r, G, C, k, k, 2 n, 2 n] times a weight per row and per column."""
    across = (values * along_columns[:, :, None, :, :, None, :]).sum(dim=-1)
    return (across * along_rows[:, :, None]).sum(dim=-1)


def _values(score_maps: Tensor, reads: _Reads, dtype: torch.dtype) -> Tensor:
    return score_maps.reshape(-1)[reads.cells].to(dtype).where(reads.valid, 0)


def _reference(
    score_maps: Tensor,
    rois: Tensor,
    offsets: Tensor | None,
    bins: int,
    spatial_scale: float,
    offset_scale: float,
    sampling_ratio: int,
) -> Tensor:
    size = score_maps.shape
    if score_maps.numel() == 0:
        return score_maps.new_zeros((rois.shape[0], size[1] // (bins * bins), bins, bins))
    rows, columns = rows_and_columns(rois, offsets, bins, size, spatial_scale, offset_scale, sampling_ratio)
    count = (rows.on_map * columns.on_map).clamp(min=1)[:, :, None]
    groups = count.shape[1]
    pooled = rois.new_zeros((rois.shape[0], groups, size[1] // (groups * bins * bins), bins, bins))
    for reads in _reads(rois, rows, columns, size):
        values = _values(score_maps, reads, rois.dtype)
        pooled[reads.part] = _sums(values, rows.weights[reads.part], columns.weights[reads.part])
    pooled = pooled / count
    if offsets is not None:
        known = offsets.isfinite().unflatten(1, (-1, 2)).all(dim=2)
        pooled = pooled.where(known[:, :, None], torch.nan)
    return pooled.flatten(1, 2).to(score_maps.dtype)


def _fake(
    score_maps: Tensor,
    rois: Tensor,
    offsets: Tensor | None,
    bins: int,
    spatial_scale: float,
    offset_scale: float,
    sampling_ratio: int,
) -> Tensor:
    return score_maps.new_empty((rois.shape[0], score_maps.shape[1] // (bins * bins), bins, bins))


def _setup(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    score_maps, rois, offsets, _, *options = inputs
    ctx.options = (score_maps.shape, *options)
    ctx.save_for_backward(*((rois,) if offsets is None else (rois, offsets, score_maps)))


def _gradient(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    rois, offsets, score_maps = (*ctx.saved_tensors, None, None)[:3]
    size, *options = ctx.options
    to_maps = _backward(grad, rois, offsets, size, *options) if ctx.needs_input_grad[0] else None
    to_offsets = _offset_grad(grad, score_maps, rois, offsets, *options) if ctx.needs_input_grad[2] else None
    return to_maps, None, to_offsets, None, None, None, None


def _backward_reference(
    grad: Tensor,
    rois: Tensor,
    offsets: Tensor | None,
    size: Sequence[int],
    spatial_scale: float,
    offset_scale: float,
    sampling_ratio: int,
) -> Tensor:
    """Gradient [N, D * k * k, H, W] of the score maps."""
    bins = grad.shape[-1]
    rows, columns = rows_and_columns(rois, offsets, bins, size, spatial_scale, offset_scale, sampling_ratio)
    count = (rows.on_map * columns.on_map).clamp(min=1)[:, :, None]
    shares = grad.to(rois.dtype).unflatten(1, (count.shape[1], -1)) / count  # [R, G, C, k, k]
    total = rois.new_zeros((size[0] * size[1] * size[2] * size[3],))
    for reads in _reads(rois, rows, columns, size):
        weights = rows.weights[reads.part, :, None, :, :, :, None] * columns.weights[reads.part, :, None, :, :, None, :]
        values = shares[reads.part][..., None, None] * weights
        valid = reads.valid.expand_as(values)
        total.index_add_(0, reads.cells[valid], values[valid])
    return total.view(tuple(size)).to(grad.dtype)


def _backward_fake(
    grad: Tensor,
    rois: Tensor,
    offsets: Tensor | None,
    size: Sequence[int],
    spatial_scale: float,
    offset_scale: float,
    sampling_ratio: int,
) -> Tensor:
    return grad.new_empty(size)


def _backward_setup(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, rois, offsets, _, *options = inputs
    ctx.options = (grad.shape[-1], *options)
    ctx.save_for_backward(*((rois,) if offsets is None else (rois, offsets, grad)))


def _backward_gradient(ctx: Context, second: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient of <second, gradient of the score maps>, which is <grad, pooling of second>."""
    rois, offsets, grad = (*ctx.saved_tensors, None, None)[:3]
    bins, *options = ctx.options
    to_grad = _pool(second, rois, offsets, bins, *options)
    to_offsets = _offset_grad(grad, second, rois, offsets, *options) if ctx.needs_input_grad[2] else None
    return to_grad, None, to_offsets, None, None, None, None


def _offset_gradient(
    grad: Tensor,
    score_maps: Tensor,
    rois: Tensor,
    offsets: Tensor,
    spatial_scale: float,
    offset_scale: float,
    sampling_ratio: int,
) -> Tensor:
    """Gradient [R, 2 * G, k, k] of the offsets, computed with differentiable operations; linear in grad and maps."""
    size, bins = score_maps.shape, grad.shape[-1]
    rows, columns = rows_and_columns(rois, offsets, bins, size, spatial_scale, offset_scale, sampling_ratio)
    count = (rows.on_map * columns.on_map).clamp(min=1)[:, :, None]
    shares = grad.to(rois.dtype).unflatten(1, (count.shape[1], -1)) / count
    parts = []
    for reads in _reads(rois, rows, columns, size):
        part, values = reads.part, _values(score_maps, reads, rois.dtype)
        right = (shares[part] * _sums(values, rows.weights[part], columns.slopes[part])).sum(dim=2)
        down = (shares[part] * _sums(values, rows.slopes[part], columns.weights[part])).sum(dim=2)
        right = right * (offset_scale * columns.extent[part])[:, None, None, None]
        down = down * (offset_scale * rows.extent[part])[:, None, None, None]
        parts.append(torch.stack((right, down), dim=2).flatten(1, 2))
    return torch.cat(parts) if parts else torch.zeros_like(offsets)


def _offset_grad_fake(
    grad: Tensor,
    score_maps: Tensor,
    rois: Tensor,
    offsets: Tensor,
    spatial_scale: float,
    offset_scale: float,
    sampling_ratio: int,
) -> Tensor:
    return torch.empty_like(offsets, memory_format=torch.contiguous_format)


def _offset_grad_setup(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, score_maps, rois, offsets, *options = inputs
    ctx.options = tuple(options)
    ctx.save_for_backward(grad, score_maps, rois, offsets)


def _offset_grad_gradient(ctx: Context, second: Tensor) -> tuple[Tensor | None, ...]:
    grad, score_maps, rois, offsets = ctx.saved_tensors
    inputs = [tensor.detach().requires_grad_() for tensor in (grad, score_maps, offsets)]
    if grad.numel() == 0 or score_maps.numel() == 0:
        to_grad, to_maps, to_offsets = (torch.zeros_like(tensor) for tensor in inputs)
    else:
        with torch.enable_grad():
            gradient = _offset_gradient(inputs[0], inputs[1], rois, inputs[2], *ctx.options)
            to_grad, to_maps, to_offsets = torch.autograd.grad(gradient, inputs, second)
    return to_grad, to_maps, None, to_offsets, None, None, None


_pool = register("deform_ps_roi_pool", _reference, _fake, _setup, _gradient)
_backward = register(
    "deform_ps_roi_pool_backward", _backward_reference, _backward_fake, _backward_setup, _backward_gradient
)
_offset_grad = register(
    "deform_ps_roi_pool_offset_grad",
    _offset_gradient,
    _offset_grad_fake,
    _offset_grad_setup,
    _offset_grad_gradient,
)
