"""RoI max pooling: each RoI is divided into bins, each bin gives its largest cell, and that cell gets the gradient.

There are four rules for the edges of the bins; `ops/README.md` compares them. The kernel keeps the position of each
maximum (argmax). The backward pass adds each output's gradient there; the second order gathers from there.
Source: Fast R-CNN 2.1, and its Caffe layer for the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detector.ops._arguments import checked_rois, output_pair
from detector.ops._library import Context, register

QUANTIZATIONS = ("caffe", "floor", "split", "outer")

# Maximum size in bytes of the temporaries of one slice of channels in the PyTorch kernels.
SLICE_BYTES = 64 << 20

# The mark of an empty bin in the argmax: -1, in each dtype.
EMPTY = {torch.uint16: 65535, torch.int32: -1}

# Cell positions are clamped to +-FAR before they become integers. The bins of such a RoI are empty with any clamp.
FAR = float(1 << 24)


def roi_pool(
    features: Tensor,
    rois: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float,
    *,
    quantization: str = "caffe",
) -> Tensor:
    """Maxima [R, C, height, width] of the bins of each RoI, in the dtype of the features.

    Args:
        features: [N, C, H, W], contiguous or channels-last.
        rois: [R, 5] (image index, x1, y1, x2, y2) in input pixels, or a list of [R_i, 4], one tensor per image.
        output_size: bins per RoI, an int or a pair (height, width).
        spatial_scale: feature cells per input pixel, such as 1/16.
        quantization: "caffe" rounds the scaled corners half away from zero, counts both end cells as inside, takes at
            least one cell, and lets neighbouring bins share a cell. "floor" takes the floor of x, y, width and height.
            All bins have one size; remaining cells are dropped. "split" rounds the corners as caffe, but the box ends
            before its end cell and bins do not overlap. "outer" takes the floor of the start and the ceiling of the
            end, and adaptive bins.

    A bin is cut at the border of the map; an empty bin gives 0 and no gradient. Of equal maxima, the first in
    row-major order wins; a NaN wins over every number. RoIs get no gradient. Edges are computed in float32 in the
    published order, in float64 for float64 features.

    Raises:
        ValueError: a wrong shape, dtype, device, image index or option.

    Source: Fast R-CNN 2.1; `outer` is `adaptive_max_pool2d` of the RoI's cells.
    """
    height, width = output_pair("roi_pool", output_size)
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"roi_pool: expected quantization to be one of {QUANTIZATIONS}, got {quantization!r}")
    rois = checked_rois("roi_pool", features, rois)
    # The argmax costs memory traffic, so it is written for training only. An exported program does not store it; its
    # backward pass computes the maxima again.
    with_argmax = torch.is_grad_enabled() and features.requires_grad and not torch.compiler.is_exporting()
    pooled: Tensor = _roi_pool(features, rois, height, width, spatial_scale, quantization, with_argmax)[0]
    return pooled


def bin_edges(
    low: Tensor, high: Tensor, bins: int, spatial_scale: float, size: int, quantization: str
) -> tuple[Tensor, Tensor]:
    """First cell and end cell (excluded) of each bin along one axis, both [R, bins] int64 in 0..size.

    `low` and `high` [R] are the RoIs' ends in input pixels. The order of operations is the published one, in the dtype
    of `low`. A bin is empty if its end is not after its start.
    """
    position = torch.arange(bins, dtype=low.dtype, device=low.device)
    start, extent = whole_cells(low, high, spatial_scale, quantization)
    if quantization == "caffe":
        # Divide by a tensor: torch may turn division by a number into multiplication by 1 / number, which moves edges.
        bin_size = (extent + 1).clamp(min=1) / low.new_full((), bins)
        first, end = (position * bin_size[:, None]).floor(), ((position + 1) * bin_size[:, None]).ceil()
        first, end = _integer(first), _integer(end)
    else:
        cells, index = _integer(extent)[:, None], position.to(torch.int64)
        if quantization == "floor":
            step = cells.div(bins, rounding_mode="floor")
            first, end = index * step, (index + 1) * step
        else:
            first = (index * cells).div(bins, rounding_mode="floor")
            end = (index + 1) * cells + (bins - 1 if quantization == "outer" else 0)
            end = end.div(bins, rounding_mode="floor")
    origin = _integer(start)[:, None]
    finite = (low.isfinite() & high.isfinite())[:, None]
    first, end = (first + origin).clamp(0, size), (end + origin).clamp(0, size)
    return first, torch.where(finite, end, first)


def whole_cells(low: Tensor, high: Tensor, spatial_scale: float, quantization: str) -> tuple[Tensor, Tensor]:
    """First cell of each RoI, and the distance to its last cell (caffe) or its end; both [R], whole.

    `low` and `high` [R] are its edges on one axis, in input pixels.
    """
    if quantization == "floor":
        return (low * spatial_scale).floor(), ((high - low) * spatial_scale).floor()
    if quantization == "outer":
        start = (low * spatial_scale).floor()
        return start, (high * spatial_scale).ceil() - start
    start = round_away(low * spatial_scale)
    return start, round_away(high * spatial_scale) - start


def round_away(value: Tensor) -> Tensor:
    """Round `value` [...] half away from zero, as C does.

    torch rounds half to even, and floor(v + 0.5) fails just below 0.5.
    """
    whole = value.trunc()
    return whole + torch.where((value - whole).abs() >= 0.5, value.sign(), 0.0)


def _integer(value: Tensor) -> Tensor:
    return value.nan_to_num(nan=0.0).clamp(-FAR, FAR).to(torch.int64)


def argmax_dtype(size: Sequence[int]) -> torch.dtype:
    """uint16 if it can hold every cell of a map [..., H, W] and the EMPTY mark, to halve the traffic; else int32."""
    return torch.uint16 if size[-2] * size[-1] < 65535 else torch.int32


def _reference(
    features: Tensor,
    rois: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    quantization: str,
    with_argmax: bool,
) -> tuple[Tensor, Tensor]:
    """Pool with range-maximum queries: a table has the maxima of all windows whose sides are powers of two.

    Each bin is the union of four such windows, so its cost does not depend on its size.
    """
    (_, channels, map_height, map_width), num_rois = features.shape, rois.shape[0]
    pooled = features.new_zeros((num_rois, channels, height, width))
    dtype = argmax_dtype(features.shape) if with_argmax else torch.uint16
    argmax = features.new_full(pooled.shape if with_argmax else (0,), EMPTY[dtype], dtype=dtype)
    if pooled.numel() == 0 or features.numel() == 0:
        return pooled, argmax
    images = image_index(rois, features.shape[0])
    top, bottom = bin_edges(rois[:, 2], rois[:, 4], height, spatial_scale, map_height, quantization)
    left, right = bin_edges(rois[:, 1], rois[:, 3], width, spatial_scale, map_width, quantization)
    empty = ((bottom <= top)[:, :, None] | (right <= left)[:, None, :]) | (images < 0)[:, None, None]  # [R, h, w]
    # On each axis two windows cover a bin, one at each end. Their size is the largest power of two that fits.
    rows, row_levels = _windows(top, bottom)  # [2, R, h]
    columns, column_levels = _windows(left, right)  # [2, R, w]
    num_rows, num_columns = int(row_levels.max()) + 1, int(column_levels.max()) + 1
    entry = row_levels[:, :, None] * num_columns + column_levels[:, None, :]
    entry = entry * features.shape[0] + images.clamp(min=0)[:, None, None]
    corners = (entry * map_height + rows[:, None, :, :, None]) * map_width + columns[None, :, :, None, :]
    corners = corners.where(~empty, 0).reshape(4, -1)  # [4, R * h * w], rows of the table
    per_channel = num_rows * num_columns * features[:, 0].numel() * 8 + num_rois * height * width * 32
    for start in range(0, channels, max(1, SLICE_BYTES // per_channel)):
        part = slice(start, start + max(1, SLICE_BYTES // per_channel))
        cells = features[:, part].permute(0, 2, 3, 1)  # [N, H, W, c]
        if not with_argmax:
            best = _query(_table(cells, num_rows, num_columns, torch.maximum), corners, torch.maximum)
        else:
            # Pool ranks, not values: ranks are unique, so a tie has one winner, and NaN ranks first.
            flat = features[:, part].flatten(2)  # [N, c, H * W]
            order = flat.argsort(dim=2, descending=True, stable=True)
            places = torch.arange(flat.shape[2], dtype=torch.int32, device=flat.device).expand_as(order)
            ranks = torch.empty_like(order, dtype=torch.int32).scatter_(2, order, places)
            ranks = ranks.transpose(1, 2).reshape(cells.shape)
            best_rank = _query(_table(ranks, num_rows, num_columns, torch.minimum), corners, torch.minimum)
            image_rows = images.clamp(min=0).repeat_interleave(height * width)[:, None] * flat.shape[2]
            winner = order.transpose(1, 2).flatten(0, 1).gather(0, best_rank + image_rows)
            best = cells.flatten(0, 2).gather(0, winner + image_rows)
            winner = winner.view(num_rois, height, width, -1).masked_fill(empty[..., None], -1)
            argmax[:, part] = winner.permute(0, 3, 1, 2).to(argmax.dtype)
        best = best.view(num_rois, height, width, -1).masked_fill(empty[..., None], 0)
        pooled[:, part] = best.permute(0, 3, 1, 2)
    return pooled, argmax


def image_index(rois: Tensor, num_images: int) -> Tensor:
    """The image [R] int64 of rois [R, 5]; -1 if an index is not in 0..num_images - 1."""
    images = rois[:, 0].nan_to_num(nan=-1.0).clamp(-1, num_images).to(torch.int64)
    return images.masked_fill(images >= num_images, -1)


def _windows(first: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Starts [2, R, bins] of the two windows that cover each bin, and the log2 of their size [R, bins]."""
    extent = (end - first).clamp(min=1)
    level = torch.frexp(extent.double()).exponent.to(torch.int64) - 1
    return torch.stack((first, end - (1 << level))), level


def _table(cells: Tensor, num_rows: int, num_columns: int, combine: Any) -> Tensor:
    """The best value of every window of 2^i x 2^j cells inside the map: rows (i, j, image, top, left), columns c."""
    table = [cells]
    for i in range(num_rows):
        if i > 0:
            table.append(_doubled(table[(i - 1) * num_columns], 1, 1 << (i - 1), combine))
        for j in range(1, num_columns):
            table.append(_doubled(table[-1], 2, 1 << (j - 1), combine))
    return torch.stack(table).flatten(0, 3)


def _doubled(cells: Tensor, dim: int, step: int, combine: Any) -> Tensor:
    """The best value of windows twice as long along `dim`. No bin uses a window that crosses the border of the map."""
    length = cells.shape[dim] - step
    doubled = cells.clone()
    doubled.narrow(dim, 0, length).copy_(combine(cells.narrow(dim, 0, length), cells.narrow(dim, step, length)))
    return doubled


def _query(table: Tensor, corners: Tensor, combine: Any) -> Tensor:
    """The best value of the four windows of each bin, [R * h * w, c]."""
    best = table[corners[0]]
    for rows in corners[1:]:
        best = combine(best, table[rows])
    return best


def _fake(
    features: Tensor,
    rois: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    quantization: str,
    with_argmax: bool,
) -> tuple[Tensor, Tensor]:
    shape = (rois.shape[0], features.shape[1], height, width)
    dtype = argmax_dtype(features.shape) if with_argmax else torch.uint16
    return features.new_empty(shape), features.new_empty(shape if with_argmax else (0,), dtype=dtype)


def _setup(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, rois, *options = inputs
    with_argmax = options[-1]
    ctx.options = (features.shape, options[:-1], with_argmax)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(rois, output[1] if with_argmax else features)


def _backward(ctx: Context, grad: Tensor, _grad_argmax: Tensor) -> tuple[Tensor | None, ...]:
    rois, saved = ctx.saved_tensors
    size, options, with_argmax = ctx.options
    argmax = saved if with_argmax else _roi_pool(saved.detach(), rois, *options, True)[1]
    return _scatter(grad, rois, argmax, size), None, None, None, None, None, None


def _cell_index(rois: Tensor, argmax: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Each output's cell as an index into the flattened features, and a mask of empty outputs, both [R * C * h * w]."""
    num_images, channels, height, width = size
    cell = argmax.to(torch.int64)
    images = image_index(rois, num_images)
    empty = (
        (cell == -1) | (cell == 65535 if argmax.dtype == torch.uint16 else False) | (images < 0)[:, None, None, None]
    )
    plane = images.clamp(min=0)[:, None] * channels + torch.arange(channels, device=cell.device)  # [R, C]
    index = plane[:, :, None, None] * (height * width) + cell
    return index.masked_fill_(empty, 0).flatten(), empty.flatten()


def _scatter_reference(grad: Tensor, rois: Tensor, argmax: Tensor, size: Sequence[int]) -> Tensor:
    """Gradient [N, C, H, W] of the features: each output's gradient is added at its argmax, in float32 or better."""
    total = grad.new_zeros(size, dtype=torch.promote_types(grad.dtype, torch.float32))
    if grad.numel() == 0 or total.numel() == 0:
        return total.to(grad.dtype)
    index, empty = _cell_index(rois, argmax, size)
    total.view(-1).scatter_add_(0, index, grad.flatten().to(total.dtype).masked_fill(empty, 0))
    return total.to(grad.dtype)


def _scatter_fake(grad: Tensor, rois: Tensor, argmax: Tensor, size: Sequence[int]) -> Tensor:
    return grad.new_empty(size)


def _scatter_setup(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1], inputs[2])


def _scatter_backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _gather(grad, *ctx.saved_tensors), None, None, None


def _gather_reference(features: Tensor, rois: Tensor, argmax: Tensor) -> Tensor:
    """Values of the features at the argmax, in its shape, 0 for empty bins: the derivative of `_scatter`."""
    if argmax.numel() == 0 or features.numel() == 0:
        return features.new_zeros(argmax.shape)
    index, empty = _cell_index(rois, argmax, features.shape)
    return features.reshape(-1)[index].masked_fill(empty, 0).view(argmax.shape)


def _gather_fake(features: Tensor, rois: Tensor, argmax: Tensor) -> Tensor:
    return features.new_empty(argmax.shape)


def _gather_setup(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, rois, argmax = inputs
    ctx.options = (features.shape,)
    ctx.save_for_backward(rois, argmax)


def _gather_backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _scatter(grad, *ctx.saved_tensors, ctx.options[0]), None, None


_roi_pool = register("roi_pool", _reference, _fake, _setup, _backward)
_scatter = register("roi_pool_scatter", _scatter_reference, _scatter_fake, _scatter_setup, _scatter_backward)
_gather = register("roi_pool_gather", _gather_reference, _gather_fake, _gather_setup, _gather_backward)
