"""RoIAlign: the mean or the maximum of bilinear samples on a regular grid in each bin, without rounding.

The mean is linear in the features, so its second-order gradient is the operator itself. The maximum keeps the index of
the winning sample; the gradient goes to that sample's four neighbours only. `sample_grid.py` computes the positions.

`options` below are spatial_scale, sampling_ratio, aligned and inner, in the order of the schemas.
Source: Mask R-CNN 3; torchvision for the border rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from detector.ops._arguments import checked_rois, output_pair
from detector.ops._library import Context, register
from detector.ops.sample_grid import Corners, Grid, make_grid

# Maximum number of entries (sample, corner) that the PyTorch kernels expand at once, and bytes of gathered features.
CHUNK_ENTRIES = 1 << 20
CHUNK_BYTES = 64 << 20


def roi_align(
    features: Tensor,
    rois: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float,
    *,
    sampling_ratio: int = 0,
    aligned: bool = True,
    reduction: str = "mean",
    sample_grid: str = "centers",
) -> Tensor:
    """Means or maxima [R, C, height, width] of each bin's bilinear samples, in the dtype of the features.

    Args:
        features: [N, C, H, W], contiguous or channels-last.
        rois: [R, 5] (image index, x1, y1, x2, y2) in input pixels, or a list of [R_i, 4], one tensor per image.
        output_size: bins per RoI, an int or a pair (height, width).
        spatial_scale: feature cells per input pixel, such as 1/16.
        sampling_ratio: samples per bin along each axis; 0 takes ceil(bin size in cells), per RoI and axis.
        aligned: shift by half a cell, so that a cell's value is at its centre, and allow RoIs of any size. False is
            the older rule: no shift, and a RoI is at least one cell wide and high.
        reduction: "mean" or "max" over the samples of a bin.
        sample_grid: of n samples, "centers" puts sample i at (i + 0.5) / n of the bin, "inner" at (i + 1) / (n + 1).

    A sample more than one cell outside the map counts as 0; a bin without samples gives 0. RoIs get no gradient
    (`roi_warp` gives them one). Coordinates are computed in float32, in float64 for float64 features.

    Raises:
        ValueError: a wrong shape, dtype, device, image index or option.

    Source: Mask R-CNN 3, which mentions `max`; lecture slides with a worked example of `max` on the `inner` grid.
    """
    height, width = output_pair("roi_align", output_size)
    if reduction not in {"mean", "max"}:
        raise ValueError(f"roi_align: expected reduction to be 'mean' or 'max', got {reduction!r}")
    if sample_grid not in {"centers", "inner"}:
        raise ValueError(f"roi_align: expected sample_grid to be 'centers' or 'inner', got {sample_grid!r}")
    if sampling_ratio < 0:
        raise ValueError(f"roi_align: expected a sampling_ratio of at least 0 (0 is adaptive), got {sampling_ratio}")
    rois = checked_rois("roi_align", features, rois)
    options = (height, width, spatial_scale, sampling_ratio, aligned, sample_grid == "inner")
    pooled: Tensor
    if reduction == "mean":
        pooled = _mean(features, rois, *options)
    else:
        pooled = _max(features, rois, *options)[0]
    return pooled


class Entries(NamedTuple):
    """Corner reads of some samples: output row o sums weights[i] x cell cells[i], i in bounds[o]..bounds[o + 1]."""

    rows: Tensor  # [E] int64, output row (roi, bin row, bin column) of each entry
    bounds: Tensor  # [rows of the chunk] int64, first entry of each output row
    cells: Tensor  # [E] int64, rows of the features as [N * H * W, C]
    weights: Tensor  # [E]


def _mean_entries(grid: Grid) -> Iterator[Entries]:
    """All corner reads of the mean, in chunks of whole RoIs to limit memory."""
    per_bin = grid.counts
    bins = grid.height * grid.width
    total = (per_bin * bins * 4).cumsum(0)
    chunk = total.div(CHUNK_ENTRIES, rounding_mode="floor").tolist()
    start = 0
    for end in range(1, len(chunk) + 1):
        if end < len(chunk) and chunk[end] == chunk[start]:
            continue
        counts = per_bin[start:end].repeat_interleave(bins)
        rows = torch.arange(counts.shape[0], device=counts.device).repeat_interleave(counts)
        first = counts.cumsum(0) - counts
        sample = torch.arange(rows.shape[0], device=counts.device) - first[rows]
        corners = grid.samples(rows + start * bins, sample)
        weights = corners.weights / counts[rows, None].to(corners.weights.dtype)
        rows, cells, weights = (each[corners.inside] for each in (rows, corners.cells, weights))
        num_entries = rows.bincount(minlength=counts.shape[0]) * 4
        bounds = num_entries.cumsum(0) - num_entries
        yield Entries((rows + start * bins).repeat_interleave(4), bounds, cells.flatten(), weights.flatten())
        start = end


def _channel_slices(features: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Slices of channels, and their features as rows [N * H * W, c] in float32 or better, at most CHUNK_BYTES each."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    per_channel = max(1, features[:, :1].numel()) * 8
    step = max(1, CHUNK_BYTES // per_channel)
    for start in range(0, features.shape[1], step):
        part = slice(start, start + step)
        yield part, features[:, part].permute(0, 2, 3, 1).flatten(0, 2).to(dtype).contiguous()


def _mean_reference(features: Tensor, rois: Tensor, height: int, width: int, *options: Any) -> Tensor:
    num_rois, channels = rois.shape[0], features.shape[1]
    pooled = features.new_zeros((num_rois, channels, height, width))
    if pooled.numel() == 0 or features.numel() == 0:
        return pooled
    grid = make_grid(rois, features.shape, height, width, *options)
    bins = height * width
    for part, table in _channel_slices(features):
        start = 0
        for entries in _mean_entries(grid):
            # embedding_bag computes exactly this sum: weighted rows of a table, in bags of any length, in order.
            rows = torch.nn.functional.embedding_bag(
                entries.cells, table, entries.bounds, mode="sum", per_sample_weights=entries.weights.to(table.dtype)
            )
            end = start + rows.shape[0] // bins
            pooled[start:end, part] = rows.view(end - start, height, width, -1).permute(0, 3, 1, 2).to(pooled.dtype)
            start = end
    return pooled


def _mean_fake(features: Tensor, rois: Tensor, height: int, width: int, *_: Any) -> Tensor:
    return features.new_empty((rois.shape[0], features.shape[1], height, width))


def _mean_setup(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, rois, _, _, *options = inputs
    ctx.options = (features.shape, options)
    ctx.save_for_backward(rois)


def _mean_backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    size, options = ctx.options
    return _mean_grad(grad, *ctx.saved_tensors, size, *options), *(None,) * 7


def _mean_grad_reference(grad: Tensor, rois: Tensor, size: Sequence[int], *options: Any) -> Tensor:
    """Gradient [N, C, H, W] of the features: the transpose of the mean, accumulated in float32 or better."""
    num_images, channels, map_height, map_width = size
    total_dtype = torch.promote_types(grad.dtype, torch.float32)
    total = grad.new_zeros((num_images * map_height * map_width, channels), dtype=total_dtype)
    if grad.numel() > 0 and total.numel() > 0:
        grid = make_grid(rois, size, grad.shape[2], grad.shape[3], *options)
        rows = grad.permute(0, 2, 3, 1).flatten(0, 2)
        step = max(1, CHUNK_BYTES // (8 * channels))
        for entries in _mean_entries(grid):
            for row, cell, weight in zip(
                entries.rows.split(step), entries.cells.split(step), entries.weights.split(step), strict=True
            ):
                total.index_add_(0, cell, rows[row].to(total_dtype) * weight[:, None].to(total_dtype))
    return total.view(num_images, map_height, map_width, channels).permute(0, 3, 1, 2).to(grad.dtype).contiguous()


def _mean_grad_fake(grad: Tensor, rois: Tensor, size: Sequence[int], *_: Any) -> Tensor:
    return grad.new_empty(size)


def _mean_grad_setup(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, rois, _, *options = inputs
    ctx.options = (grad.shape[2], grad.shape[3], *options)
    ctx.save_for_backward(rois)


def _mean_grad_backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _mean(grad, *ctx.saved_tensors, *ctx.options), *(None,) * 6


_mean = register("roi_align", _mean_reference, _mean_fake, _mean_setup, _mean_backward)
_mean_grad = register(
    "roi_align_backward", _mean_grad_reference, _mean_grad_fake, _mean_grad_setup, _mean_grad_backward
)


def _max_reference(features: Tensor, rois: Tensor, height: int, width: int, *options: Any) -> tuple[Tensor, Tensor]:
    """The largest sample of each bin and its index (row-major within the bin), -1 in a bin without samples."""
    num_rois, channels = rois.shape[0], features.shape[1]
    pooled = features.new_zeros((num_rois, channels, height, width))
    argmax = features.new_full(pooled.shape, -1, dtype=torch.int32)
    if pooled.numel() == 0 or features.numel() == 0:
        return pooled, argmax
    grid = make_grid(rois, features.shape, height, width, *options)
    counts = grid.counts
    in_roi = torch.arange(height * width, device=rois.device)
    for part, table in _channel_slices(features):
        best = table.new_zeros((num_rois, height * width, table.shape[1]))
        winner = torch.full(best.shape, -1, dtype=torch.int32, device=best.device)
        for sample in range(int(counts.max())):
            active = (counts > sample).nonzero()[:, 0]
            bins = (active[:, None] * (height * width) + in_roi).flatten()
            value = _sample_values(table, grid.samples(bins, torch.full_like(bins, sample)))
            value = value.view(active.shape[0], height * width, -1)
            now = best[active]
            better = (value > now) | (value.isnan() & ~now.isnan()) if sample > 0 else torch.ones_like(value).bool()
            best[active] = torch.where(better, value, now)
            winner[active] = winner[active].masked_fill(better, sample)
        pooled[:, part] = best.view(num_rois, height, width, -1).permute(0, 3, 1, 2).to(pooled.dtype)
        argmax[:, part] = winner.view(num_rois, height, width, -1).permute(0, 3, 1, 2)
    return pooled, argmax


def _sample_values(table: Tensor, corners: Corners) -> Tensor:
    """Values [S, c] of samples; 0 outside the map."""
    weights = corners.weights.to(table.dtype)
    value = torch.nn.functional.embedding_bag(corners.cells, table, mode="sum", per_sample_weights=weights)
    return value.masked_fill(~corners.inside[:, None], 0)


def _max_fake(features: Tensor, rois: Tensor, height: int, width: int, *_: Any) -> tuple[Tensor, Tensor]:
    shape = (rois.shape[0], features.shape[1], height, width)
    return features.new_empty(shape), features.new_empty(shape, dtype=torch.int32)


def _max_setup(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, rois, _, _, *options = inputs
    ctx.options = (features.shape, options)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(rois, output[1])


def _max_backward(ctx: Context, grad: Tensor, _grad_argmax: Tensor) -> tuple[Tensor | None, ...]:
    size, options = ctx.options
    return _max_scatter(grad, *ctx.saved_tensors, size, *options), *(None,) * 7


def _winning_corners(rois: Tensor, argmax: Tensor, size: Sequence[int], options: Any) -> Corners:
    """Corners of the R * h * w * C winning samples, as cells of the flattened channels-last features."""
    num_rois, channels, height, width = argmax.shape
    grid = make_grid(rois, size, height, width, *options)
    winner = argmax.permute(0, 2, 3, 1).flatten()
    bins = torch.arange(num_rois * height * width, device=rois.device).repeat_interleave(channels)
    corners = grid.samples(bins, winner.clamp(min=0).to(torch.int64))
    channel = torch.arange(channels, device=rois.device).repeat(num_rois * height * width)
    known = (grid.images >= 0).repeat_interleave(height * width * channels)
    inside = corners.inside & (winner >= 0) & known
    cells = (corners.cells * channels + channel[:, None]).masked_fill(~inside[:, None], 0)
    return Corners(cells, corners.weights, inside)


def _max_scatter_reference(grad: Tensor, rois: Tensor, argmax: Tensor, size: Sequence[int], *options: Any) -> Tensor:
    """Gradient [N, C, H, W] of the features: each output's gradient is added to the corners of its winning sample."""
    num_images, channels, map_height, map_width = size
    total = grad.new_zeros(
        (num_images, map_height, map_width, channels), dtype=torch.promote_types(grad.dtype, torch.float32)
    )
    if total.numel() > 0:
        for part in _roi_chunks(grad.shape):
            corners = _winning_corners(rois[part], argmax[part], size, options)
            share = grad[part].permute(0, 2, 3, 1).reshape(-1, 1).to(total.dtype) * corners.weights.to(total.dtype)
            share = share.masked_fill(~corners.inside[:, None], 0)
            total.view(-1).scatter_add_(0, corners.cells.flatten(), share.flatten())
    return total.permute(0, 3, 1, 2).to(grad.dtype).contiguous()


def _roi_chunks(shape: Sequence[int]) -> Iterator[slice]:
    """Slices of RoIs whose outputs [R, C, h, w] have at most CHUNK_ENTRIES elements; at least one RoI each."""
    step = max(1, CHUNK_ENTRIES // max(1, shape[1] * shape[2] * shape[3]))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def _max_scatter_fake(grad: Tensor, rois: Tensor, argmax: Tensor, size: Sequence[int], *_: Any) -> Tensor:
    return grad.new_empty(size)


def _max_scatter_setup(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, rois, argmax, _, *options = inputs
    ctx.options = tuple(options)
    ctx.save_for_backward(rois, argmax)


def _max_scatter_backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _max_gather(grad, *ctx.saved_tensors, *ctx.options), *(None,) * 7


def _max_gather_reference(features: Tensor, rois: Tensor, argmax: Tensor, *options: Any) -> Tensor:
    """Values [R, C, h, w] of the samples in `argmax`, 0 where it is -1: the derivative of `_max_scatter`."""
    picked = features.new_zeros(argmax.shape)
    if features.numel() > 0:
        flat = features.permute(0, 2, 3, 1).reshape(-1)
        for part in _roi_chunks(argmax.shape):
            corners = _winning_corners(rois[part], argmax[part], features.shape, options)
            value = (flat[corners.cells].to(corners.weights.dtype) * corners.weights).sum(1)
            value = value.masked_fill(~corners.inside, 0)
            num_rois, channels, height, width = argmax[part].shape
            picked[part] = value.view(num_rois, height, width, channels).permute(0, 3, 1, 2).to(picked.dtype)
    return picked


def _max_gather_fake(features: Tensor, rois: Tensor, argmax: Tensor, *_: Any) -> Tensor:
    return features.new_empty(argmax.shape)


def _max_gather_setup(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, rois, argmax, *options = inputs
    ctx.options = (features.shape, options)
    ctx.save_for_backward(rois, argmax)


def _max_gather_backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    size, options = ctx.options
    return _max_scatter(grad, *ctx.saved_tensors, size, *options), *(None,) * 6


_max = register("roi_align_max", _max_reference, _max_fake, _max_setup, _max_backward)
_max_scatter = register(
    "roi_align_max_scatter", _max_scatter_reference, _max_scatter_fake, _max_scatter_setup, _max_scatter_backward
)
_max_gather = register(
    "roi_align_max_gather", _max_gather_reference, _max_gather_fake, _max_gather_setup, _max_gather_backward
)
