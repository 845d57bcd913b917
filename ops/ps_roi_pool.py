"""Position-sensitive RoI pooling and the vote: bin (i, j) of a class pools only score map (i, j) of that class.

This is the layer that R-FCN published. `torchvision.ops.ps_roi_pool` differs: it rounds after scaling, never reads the
last row and column, and its gradient does not match its forward pass.
Source: R-FCN eq. 1 and its Caffe layer (psroi_pooling_layer.cu) for the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detector.ops._library import Context, register
from detector.ops._score_maps import (
    Spans,
    checked_arguments,
    gather,
    grouped_taps,
    mean_backward,
    weighted_sums,
)
from detector.ops.roi_pool import argmax_dtype, image_index, round_away

REDUCTIONS = ("mean", "max")

# The minimum width and height of a RoI on the map, in cells, as published.
MIN_SIZE = 0.1


def ps_roi_pool(
    score_maps: Tensor,
    rois: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Scores [R, D, k, k] of each class in the bins of each RoI, in the dtype of the score maps.

    Args:
        score_maps: [N, D * k * k, H, W], contiguous or channels-last; channel (d * k + i) * k + j serves class d in
            bin (i, j), i counted downwards.
        rois: [R, 5] (image index, x1, y1, x2, y2) in input pixels, or a list of [R_i, 4], one tensor per image. x2
            and y2 are the last pixels inside, see `detector.ops.boxes.to_rois(..., inclusive=True)`.
        output_size: bins per side, an int k or a pair (k, k).
        spatial_scale: cells per input pixel, such as 1/16.
        reduction: "mean" over the cells of a bin, as published, or "max".

    Corners are rounded half away from zero, 1 is added to the end, and then they are scaled. A RoI is at least 0.1
    cells wide and high. A bin covers every cell that it touches and is cut at the border of the map; an empty bin gives
    0. Sums are accumulated in float32 or better. A NaN in a bin propagates. Of equal maxima, the first in row-major
    order gets the gradient. RoIs get no gradient. Edges are computed in float32, in float64 for float64 score maps.

    Raises:
        ValueError: a wrong shape, dtype, device, image index or option.

    Source: R-FCN eq. 1.
    """
    rois, bins = checked_arguments("ps_roi_pool", score_maps, rois, output_size)
    if not _is_max("ps_roi_pool", reduction):
        pooled: Tensor = _ps_roi_pool(score_maps, rois, bins, spatial_scale)
    else:
        pooled = _ps_roi_pool_max(score_maps, rois, bins, spatial_scale, _wants_argmax(score_maps))[0]
    return pooled


def ps_roi_vote(
    score_maps: Tensor,
    rois: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Votes [R, D]: the mean over all k x k bins of `ps_roi_pool`. The bins are not stored.

    `score_maps`, `rois` and the other arguments follow the rules of `ps_roi_pool`; an empty bin votes 0.

    Raises:
        ValueError: a wrong shape, dtype, device, image index or option.

    Source: R-FCN 2.2, "voting"; the paper's formula is a sum, but its text and its code use the mean.
    """
    rois, bins = checked_arguments("ps_roi_vote", score_maps, rois, output_size)
    if not _is_max("ps_roi_vote", reduction):
        votes: Tensor = _ps_roi_vote(score_maps, rois, bins, spatial_scale)
    else:
        votes = _ps_roi_vote_max(score_maps, rois, bins, spatial_scale, _wants_argmax(score_maps))[0]
    return votes


def bin_edges(low: Tensor, high: Tensor, bins: int, spatial_scale: float, size: int) -> tuple[Tensor, Tensor]:
    """First cell and end cell (excluded) of each bin along one axis, both [R, k] int64 in 0..size.

    `low` and `high` [R] are the RoIs' first and last pixels. The order of operations is the published one, in the dtype
    of `low`. A bin is empty if its end is not after its start. All bins of a RoI that is not finite are empty.
    """
    start = round_away(low) * spatial_scale
    extent = ((round_away(high) + 1) * spatial_scale - start).clamp(min=MIN_SIZE)
    # Divide by a tensor: torch may turn division by a number into multiplication by 1 / number, which moves edges.
    bin_size = (extent / low.new_full((), bins))[:, None]
    position = torch.arange(bins, dtype=low.dtype, device=low.device)
    first = (position * bin_size + start[:, None]).floor()
    end = ((position + 1) * bin_size + start[:, None]).ceil()
    finite = (low.isfinite() & high.isfinite())[:, None]
    first, end = (edge.where(finite, 0).clamp(0, size).to(torch.int64) for edge in (first, end))
    return first, end


def _is_max(op: str, reduction: str) -> bool:
    if reduction not in REDUCTIONS:
        raise ValueError(f"{op}: expected reduction to be one of {REDUCTIONS}, got {reduction!r}")
    return reduction == "max"


def _wants_argmax(score_maps: Tensor) -> bool:
    """Return whether to store the argmax: training needs it, an export does not (see `_max_gradient`)."""
    return torch.is_grad_enabled() and score_maps.requires_grad and not torch.compiler.is_exporting()


def _spans(first: Tensor, end: Tensor) -> Spans:
    """The cells from first to end [R, k], each with weight 1."""
    longest = int((end - first).max().clamp(min=0)) if first.numel() else 0
    cells = first[..., None] + torch.arange(longest, device=first.device)
    valid = cells < end[..., None]
    return Spans(cells, torch.ones((), device=first.device).expand_as(cells), valid)


def _rows_and_columns(rois: Tensor, bins: int, spatial_scale: float, size: Sequence[int]) -> tuple[Spans, Spans]:
    rows = _spans(*bin_edges(rois[:, 2], rois[:, 4], bins, spatial_scale, size[2]))
    columns = _spans(*bin_edges(rois[:, 1], rois[:, 3], bins, spatial_scale, size[3]))
    return rows, columns


def _cell_counts(rows: Spans, columns: Spans) -> Tensor:
    """Number of cells of each bin, [R, 1, k, k], at least 1."""
    counts = rows.valid.sum(dim=-1)[:, :, None] * columns.valid.sum(dim=-1)[:, None, :]
    return counts.clamp(min=1)[:, None]


def _mean(score_maps: Tensor, rois: Tensor, bins: int, spatial_scale: float) -> Tensor:
    """Means [R, D, k, k], in float32 or better."""
    rows, columns = _rows_and_columns(rois, bins, spatial_scale, score_maps.shape)
    sums = weighted_sums(score_maps, image_index(rois, score_maps.shape[0]), rows, columns)
    return sums / _cell_counts(rows, columns)


def _pool_reference(score_maps: Tensor, rois: Tensor, bins: int, spatial_scale: float) -> Tensor:
    return _mean(score_maps, rois, bins, spatial_scale).to(score_maps.dtype).contiguous()


def _pool_fake(score_maps: Tensor, rois: Tensor, bins: int, spatial_scale: float) -> Tensor:
    return score_maps.new_empty((rois.shape[0], score_maps.shape[1] // (bins * bins), bins, bins))


def _pool_setup(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    score_maps, rois, bins, spatial_scale = inputs
    ctx.options = (score_maps.shape, bins, spatial_scale)
    ctx.save_for_backward(rois)


def _pool_gradient(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    size, _, spatial_scale = ctx.options
    return _ps_roi_pool_backward(grad, *ctx.saved_tensors, size, spatial_scale), None, None, None


def _backward_reference(grad: Tensor, rois: Tensor, size: Sequence[int], spatial_scale: float) -> Tensor:
    """Gradient [N, D * k * k, H, W] of the score maps: the gradient of each bin, divided equally among its cells."""
    rows, columns = _rows_and_columns(rois, grad.shape[-1], spatial_scale, size)
    shares = grad.to(torch.promote_types(grad.dtype, torch.float32)) / _cell_counts(rows, columns)
    return mean_backward(shares, image_index(rois, size[0]), rows, columns, size).to(grad.dtype)


def _backward_fake(grad: Tensor, rois: Tensor, size: Sequence[int], spatial_scale: float) -> Tensor:
    return grad.new_empty(size)


def _backward_setup(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, rois, _, spatial_scale = inputs
    ctx.options = (grad.shape[-1], spatial_scale)
    ctx.save_for_backward(rois)


def _backward_gradient(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _ps_roi_pool(grad, *ctx.saved_tensors, *ctx.options), None, None, None


def _vote_reference(score_maps: Tensor, rois: Tensor, bins: int, spatial_scale: float) -> Tensor:
    return _mean(score_maps, rois, bins, spatial_scale).mean(dim=(2, 3)).to(score_maps.dtype)


def _vote_fake(score_maps: Tensor, rois: Tensor, bins: int, spatial_scale: float) -> Tensor:
    return score_maps.new_empty((rois.shape[0], score_maps.shape[1] // (bins * bins)))


def _vote_gradient(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    size, bins, spatial_scale = ctx.options
    return _ps_roi_pool_backward(_to_bins(grad, bins), *ctx.saved_tensors, size, spatial_scale), None, None, None


def _to_bins(grad: Tensor, bins: int) -> Tensor:
    """The gradient of the bins [R, D, k, k], a view of stride 0, from the gradient of the votes [R, D]."""
    return (grad / (bins * bins))[:, :, None, None].expand(-1, -1, bins, bins)


def _max_reference(
    score_maps: Tensor, rois: Tensor, bins: int, spatial_scale: float, with_argmax: bool
) -> tuple[Tensor, Tensor]:
    """Maxima [R, D, k, k] and, with `with_argmax`, their cells y * W + x, stored as in `roi_pool`."""
    (num_images, channels, map_height, map_width), num_rois = score_maps.shape, rois.shape[0]
    classes = channels // (bins * bins)
    pooled = score_maps.new_zeros((num_rois, bins, bins, classes))
    argmax = torch.full(pooled.shape, -1, dtype=torch.int32, device=rois.device)
    rows, columns = _rows_and_columns(rois, bins, spatial_scale, score_maps.shape)
    for part, taps in grouped_taps(image_index(rois, num_images), rows, columns, score_maps.shape):
        values = gather(score_maps, taps.cell, bins)
        index = taps.bin[:, None].expand_as(values)
        best = pooled[part].flatten(0, 2)
        best.scatter_reduce_(0, index, values, "amax", include_self=False)
        wins = (values == best[taps.bin]) | values.isnan()
        cell = (taps.cell % (map_height * map_width)).to(torch.int32)[:, None]
        cell = torch.where(wins, cell, torch.iinfo(torch.int32).max)
        argmax[part].flatten(0, 2).scatter_reduce_(0, index, cell, "amin", include_self=False)
    argmax = argmax.permute(0, 3, 1, 2) if with_argmax else argmax.new_empty(0)
    dtype = argmax_dtype(score_maps.shape) if with_argmax else torch.uint16
    return pooled.permute(0, 3, 1, 2).contiguous(), argmax.contiguous().to(dtype)


def _max_fake(
    score_maps: Tensor, rois: Tensor, bins: int, spatial_scale: float, with_argmax: bool
) -> tuple[Tensor, Tensor]:
    pooled = _pool_fake(score_maps, rois, bins, spatial_scale)
    dtype = argmax_dtype(score_maps.shape) if with_argmax else torch.uint16
    return pooled, pooled.new_empty(pooled.shape if with_argmax else (0,), dtype=dtype)


def _max_setup(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    score_maps, rois, *options, with_argmax = inputs
    ctx.options = (score_maps.shape, options, with_argmax)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(rois, output[1] if with_argmax else score_maps)


def _max_gradient(ctx: Context, grad: Tensor, _grad_argmax: Tensor) -> tuple[Tensor | None, ...]:
    """Add each gradient at its maximum, with the scatter of `roi_pool`: each output reads another channel."""
    rois, saved = ctx.saved_tensors
    size, (bins, spatial_scale), with_argmax = ctx.options
    argmax = saved if with_argmax else _ps_roi_pool_max(saved.detach(), rois, bins, spatial_scale, True)[1]
    grad = grad if grad.dim() == 4 else _to_bins(grad, bins)
    by_channel = (len(rois), size[1], 1, 1)
    total = torch.ops.fast_rfcn.roi_pool_scatter.default(
        grad.reshape(by_channel), rois, argmax.reshape(by_channel), size
    )
    return total, None, None, None, None


def _vote_max_reference(
    score_maps: Tensor, rois: Tensor, bins: int, spatial_scale: float, with_argmax: bool
) -> tuple[Tensor, Tensor]:
    pooled, argmax = _max_reference(score_maps, rois, bins, spatial_scale, with_argmax)
    votes = pooled.to(torch.promote_types(pooled.dtype, torch.float32)).mean(dim=(2, 3))
    return votes.to(pooled.dtype), argmax


def _vote_max_fake(
    score_maps: Tensor, rois: Tensor, bins: int, spatial_scale: float, with_argmax: bool
) -> tuple[Tensor, Tensor]:
    votes = _vote_fake(score_maps, rois, bins, spatial_scale)
    return votes, _max_fake(score_maps, rois, bins, spatial_scale, with_argmax)[1]


_ps_roi_pool = register("ps_roi_pool", _pool_reference, _pool_fake, _pool_setup, _pool_gradient)
_ps_roi_pool_backward = register(
    "ps_roi_pool_backward", _backward_reference, _backward_fake, _backward_setup, _backward_gradient
)
_ps_roi_vote = register("ps_roi_vote", _vote_reference, _vote_fake, _pool_setup, _vote_gradient)
_ps_roi_pool_max = register("ps_roi_pool_max", _max_reference, _max_fake, _max_setup, _max_gradient)
_ps_roi_vote_max = register("ps_roi_vote_max", _vote_max_reference, _vote_max_fake, _max_setup, _max_gradient)
