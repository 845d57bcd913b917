"""The project's operators from standard operators, for runtimes without the project's; exact, for one image.

The weight of a cell in a bin is a weight of its row times a weight of its column. So a mean is two matrix products with
weights [bins, cells, R]: 1 / n for the n rows (columns) of the bin, otherwise 0. RoIs are the last axis, so that the
products need no transpose: ONNX Runtime 1.31 crashes on a batched product with a transpose if there are no RoIs.
A maximum comes from a table of the maxima of all windows whose sides are powers of two: each bin is the union of four
such windows.
No size here depends on values, since exported graphs do not support that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torchvision  # noqa: F401  (registers its operators)
from torch import Tensor
from torch.nn import functional as F

from detector.ops.deform_ps_roi_pool import rows_and_columns
from detector.ops.ps_roi_pool import bin_edges as published_edges
from detector.ops.roi_pool import bin_edges
from detector.ops.sample_grid import neighbours, sample_axis

Decompositions = dict[Any, Callable[..., Any]]


def standard_operators(longest: int) -> Decompositions:
    """Return operator -> its form in standard operators, for one image and maps of at most `longest` cells a side.

    The result is for `ExportedProgram.run_decompositions`. NMS uses torchvision's operator, since PyTorch has none.
    """
    ops = torch.ops.fast_rfcn
    levels = max(1, longest.bit_length())
    return {
        ops.roi_pool.default: partial(roi_pool, levels=levels),
        ops.roi_align.default: roi_align,
        ops.ps_roi_pool.default: ps_roi_pool,
        ops.ps_roi_vote.default: ps_roi_vote,
        ops.ps_roi_align.default: ps_roi_align,
        ops.deform_ps_roi_pool.default: deform_ps_roi_pool,
        ops.ps_roi_pool_max.default: partial(ps_roi_pool_max, levels=levels),
        ops.ps_roi_vote_max.default: partial(ps_roi_vote_max, levels=levels),
        ops.nms.default: nms,
        torch.ops.torchvision.deform_conv2d.default: deform_conv2d,
    }


def roi_pool(
    features: Tensor,
    rois: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    quantization: str,
    with_argmax: bool,
    *,
    levels: int,
) -> tuple[Tensor, Tensor]:
    """Return maxima [R, C, height, width], without an argmax, which only training needs."""
    rows = bin_edges(rois[:, 2], rois[:, 4], height, spatial_scale, features.shape[2], quantization)
    columns = bin_edges(rois[:, 1], rois[:, 3], width, spatial_scale, features.shape[3], quantization)
    plane = torch.zeros((height, width), dtype=torch.int64, device=rois.device)
    pooled = _maxima(features.permute(0, 2, 3, 1), plane, rows, columns, levels)
    return pooled, features.new_empty(0, dtype=torch.uint16)


def roi_align(
    features: Tensor,
    rois: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    inner: bool,
) -> Tensor:
    """Return means [R, C, height, width] of a fixed number of samples."""
    options = (spatial_scale, sampling_ratio, aligned, inner)
    rows = _sample_weights(rois[:, 2], rois[:, 4], height, features.shape[2], *options)
    columns = _sample_weights(rois[:, 1], rois[:, 3], width, features.shape[3], *options)
    along_rows = torch.einsum("cyx,jxr->rcyj", features[0], columns)
    return torch.einsum("rcyj,iyr->rcij", along_rows, rows)


def ps_roi_pool(score_maps: Tensor, rois: Tensor, bins: int, spatial_scale: float) -> Tensor:
    """Return means [R, D, bins, bins] as in the published layer."""
    return _bin_means(score_maps, *_mean_weights(score_maps, rois, bins, spatial_scale))


def ps_roi_vote(score_maps: Tensor, rois: Tensor, bins: int, spatial_scale: float) -> Tensor:
    """Return votes [R, D]. With the maps of all bins in one mosaic, a vote is one bilinear form."""
    weights = _mean_weights(score_maps, rois, bins, spatial_scale)
    rows, columns = (axis.flatten(0, 1) for axis in weights)  # [k cells, R]
    mosaic = _by_bin(score_maps, bins).permute(0, 1, 3, 2, 4).flatten(3, 4).flatten(1, 2)  # [D, k H, k W]
    votes = ((mosaic @ columns) * rows).sum(dim=1)
    return votes.T / (bins * bins)


def ps_roi_align(score_maps: Tensor, rois: Tensor, bins: int, spatial_scale: float, sampling_ratio: int) -> Tensor:
    """Return means [R, D, bins, bins] of a fixed number of samples."""
    options = (spatial_scale, sampling_ratio, True, False)
    rows = _sample_weights(rois[:, 2], rois[:, 4], bins, score_maps.shape[2], *options)
    columns = _sample_weights(rois[:, 1], rois[:, 3], bins, score_maps.shape[3], *options)
    return _bin_means(score_maps, rows, columns)


def deform_ps_roi_pool(
    score_maps: Tensor,
    rois: Tensor,
    offsets: Tensor | None,
    bins: int,
    spatial_scale: float,
    offset_scale: float,
    sampling_ratio: int,
) -> Tensor:
    """Return means [R, D, bins, bins] of the samples of moved bins. A bin whose offset is not finite gives 0."""
    options = (spatial_scale, offset_scale, sampling_ratio)
    axes = rows_and_columns(rois, offsets, bins, score_maps.shape, *options)
    rows, columns = (
        _cell_weights(axis.cells.permute(1, 2, 3, 4, 0), axis.weights.permute(1, 2, 3, 4, 0), size)
        for axis, size in zip(axes, score_maps.shape[2:], strict=True)
    )  # [G, k, k, H, R], [G, k, k, W, R]
    maps = _by_bin(score_maps, bins).unflatten(0, (rows.shape[0], -1)).permute(0, 2, 3, 1, 4, 5)  # [G, k, k, C, H, W]
    along_rows = (maps.flatten(3, 4) @ columns).unflatten(3, maps.shape[3:5])  # [G, k, k, C, H, R]
    sums = (along_rows * rows[:, :, :, None]).sum(dim=4)
    # Each sample is listed twice. RoIs come last, since ONNX Runtime 1.31 keeps the axis in a sum over the last axis of
    # no numbers.
    down, across = (axis.valid.permute(1, 2, 3, 4, 0).to(maps.dtype).sum(dim=3) / 2 for axis in axes)
    count = (down * across).clamp(min=1)  # [G, k, k, R]
    means: Tensor = (sums / count[:, :, :, None]).permute(4, 0, 3, 1, 2).flatten(1, 2)
    return means


def deform_conv2d(
    features: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor,
    bias: Tensor,
    stride_y: int,
    stride_x: int,
    padding_y: int,
    padding_x: int,
    dilation_y: int,
    dilation_x: int,
    groups: int,
    offset_groups: int,
    use_mask: bool,
) -> Tensor:
    """Return maps [N, O, H, W]: for each weight of the kernel, one sample of every cell and one 1x1 convolution.

    `features` are [N, C, H', W'], `weight` [O, C, h, w], `offset` [N, 2 h w, H, W] (down, right), `bias` [O]. Without
    groups and mask, as in `DeformableConv2d`.
    """
    if groups != 1 or offset_groups != 1 or use_mask:
        raise ValueError("only deformable convolutions without groups and masks can be exported")
    moved = offset.unflatten(1, (-1, 2))  # [N, h w, 2, H, W]
    down = torch.arange(offset.shape[2], dtype=offset.dtype, device=offset.device)[:, None] * stride_y - padding_y
    right = torch.arange(offset.shape[3], dtype=offset.dtype, device=offset.device) * stride_x - padding_x
    total = bias[:, None, None]
    for index in range(moved.shape[1]):
        i, j = divmod(index, weight.shape[3])
        y = down + i * dilation_y + moved[:, index, 0]
        x = right + j * dilation_x + moved[:, index, 1]
        places = [(2 * at + 1) / side - 1 for at, side in ((x, features.shape[3]), (y, features.shape[2]))]
        samples = F.grid_sample(features, torch.stack(places, dim=3), padding_mode="zeros", align_corners=False)
        total = total + F.conv2d(samples, weight[:, :, i : i + 1, j : j + 1])
    return total


def _cell_weights(cells: Tensor, weights: Tensor, size: int) -> Tensor:
    """Return the weight [..., size, R] of each cell, from the cells that samples read [..., n, R] and their weights."""
    every = torch.arange(size, device=cells.device)[:, None]
    total = weights.new_zeros((*cells.shape[:-2], size, cells.shape[-1]))
    for sample in range(cells.shape[-2]):  # a loop: all samples together would need their number times the memory
        total = (
            total
            + (every == cells[..., sample : sample + 1, :]).to(weights.dtype) * weights[..., sample : sample + 1, :]
        )
    return total


def ps_roi_pool_max(
    score_maps: Tensor, rois: Tensor, bins: int, spatial_scale: float, with_argmax: bool, *, levels: int
) -> tuple[Tensor, Tensor]:
    """Return maxima [R, D, bins, bins], without an argmax."""
    rows = published_edges(rois[:, 2], rois[:, 4], bins, spatial_scale, score_maps.shape[2])
    columns = published_edges(rois[:, 1], rois[:, 3], bins, spatial_scale, score_maps.shape[3])
    cells = _by_bin(score_maps, bins).permute(1, 2, 3, 4, 0).flatten(0, 1)  # [k k, H, W, D]
    plane = torch.arange(bins * bins, device=rois.device).view(bins, bins)
    return _maxima(cells, plane, rows, columns, levels), score_maps.new_empty(0, dtype=torch.uint16)


def ps_roi_vote_max(
    score_maps: Tensor, rois: Tensor, bins: int, spatial_scale: float, with_argmax: bool, *, levels: int
) -> tuple[Tensor, Tensor]:
    """Return means [R, D] of the bins' maxima, without an argmax."""
    pooled, argmax = ps_roi_pool_max(score_maps, rois, bins, spatial_scale, with_argmax, levels=levels)
    return pooled.mean(dim=(2, 3)), argmax


def nms(
    boxes: Tensor, scores: Tensor, labels: Tensor | None, iou_threshold: float, max_output: int | None = None
) -> Tensor:
    """Return the indices of the kept boxes. `labels` must be None: torchvision's NMS per label is not exact.

    It shifts the boxes of each label, and this changes their rounding.
    """
    if labels is not None:
        raise ValueError("PyTorch has no operator for NMS per class; export boxes and scores without NMS")
    kept: Tensor = torch.ops.torchvision.nms.default(boxes, scores, iou_threshold)
    return kept[:max_output]


def _by_bin(score_maps: Tensor, bins: int) -> Tensor:
    """Return score maps [1, D k k, H, W] as [D, k, k, H, W]."""
    maps: Tensor = score_maps[0].unflatten(0, (score_maps.shape[1] // (bins * bins), bins, bins))
    return maps


def _mean_weights(score_maps: Tensor, rois: Tensor, bins: int, spatial_scale: float) -> tuple[Tensor, Tensor]:
    """Return the weights of each row [k, H, R] and column [k, W, R] of the map in the mean of a bin."""
    weights = []
    for low, high, size in (
        (rois[:, 2], rois[:, 4], score_maps.shape[2]),
        (rois[:, 1], rois[:, 3], score_maps.shape[3]),
    ):
        first, end = (edge.T[:, None] for edge in published_edges(low, high, bins, spatial_scale, size))  # [k, 1, R]
        cell = torch.arange(size, device=rois.device)[:, None]
        inside = (cell >= first) & (cell < end)
        weights.append(inside.to(score_maps.dtype) / (end - first).clamp(min=1).to(score_maps.dtype))
    return weights[0], weights[1]


def _sample_weights(
    low: Tensor,
    high: Tensor,
    bins: int,
    size: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    inner: bool,
) -> Tensor:
    """Return the weights [bins, size, R] of the cells of one axis in the mean of a bin's samples."""
    if sampling_ratio < 1:
        raise ValueError(
            "RoIAlign with an adaptive number of samples cannot be exported; set a sampling_ratio of at least 1"
        )
    axis = sample_axis(low, high, bins, spatial_scale, sampling_ratio, aligned, inner)
    sample = (torch.arange(sampling_ratio, dtype=low.dtype, device=low.device) + axis.shift)[:, None]
    position = torch.arange(bins, dtype=low.dtype, device=low.device)[:, None, None]
    at = axis.start + position * axis.size + sample * axis.size / axis.divisions  # [bins, n, R]
    lower, upper, weight_lower, weight_upper = neighbours(at, size)
    cell = torch.arange(size, device=low.device)[:, None, None]
    weights = (cell == lower[:, None]).to(low.dtype) * weight_lower[:, None]
    weights = weights + (cell == upper[:, None]).to(low.dtype) * weight_upper[:, None]  # [bins, size, n, R]
    return weights.mean(dim=2)


def _bin_means(score_maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return means [R, D, k, k] for weights of rows [k, H, R] and columns [k, W, R]."""
    maps = _by_bin(score_maps, rows.shape[0]).permute(2, 0, 1, 3, 4)  # [j, D, i, H, W]
    along_rows = (maps.flatten(1, 3) @ columns).unflatten(1, maps.shape[1:4])  # [j, D, i, H, R]
    means: Tensor = (along_rows * rows).sum(dim=3)  # [j, D, i, R]
    return means.permute(3, 1, 2, 0)


def _maxima(
    cells: Tensor, plane: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor], levels: int
) -> Tensor:
    """Return maxima [R, C, h, w] of bins of cells [B, H, W, C]. Bin (i, j) reads plane[i, j].

    `rows` and `columns` are the first and the end (excluded) cell of each bin.
    """
    _, height, width, channels = cells.shape
    table: list[Tensor] = []
    for i in range(levels):
        by_rows = cells if i == 0 else _doubled(table[(i - 1) * levels], 1, 1 << (i - 1))
        table.append(by_rows)
        for j in range(1, levels):
            table.append(_doubled(table[-1], 2, 1 << (j - 1)))
    flat = torch.stack(table).reshape(-1, channels)  # rows by (level of rows, level of columns, plane, y, x)
    (top, bottom), (left, right) = rows, columns
    row_level, column_level = _level(bottom - top, levels)[:, :, None], _level(right - left, levels)[:, None, :]
    entry = (row_level * levels + column_level) * cells.shape[0] + plane  # [R, h, w]
    empty = (bottom <= top)[:, :, None] | (right <= left)[:, None, :]
    best: Tensor | None = None
    for y in (top[:, :, None], bottom[:, :, None] - (1 << row_level)):
        for x in (left[:, None, :], right[:, None, :] - (1 << column_level)):
            index = torch.where(empty, 0, (entry * height + y) * width + x)
            found = flat[index]  # [R, h, w, C]
            best = found if best is None else torch.maximum(best, found)
    assert best is not None
    return torch.where(empty[..., None], 0.0, best).permute(0, 3, 1, 2)


def _doubled(windows: Tensor, dim: int, step: int) -> Tensor:
    """Return maxima of windows twice as long along `dim`. No bin uses windows that leave the map."""
    padding = [0, 0] * (windows.dim() - dim - 1) + [0, step]
    padded = F.pad(windows, padding, value=-torch.inf)
    return torch.maximum(windows, padded.narrow(dim, step, windows.shape[dim]))


def _level(extent: Tensor, levels: int) -> Tensor:
    """Return floor(log2) of extents, at least 0."""
    level = torch.zeros_like(extent)
    for power in range(1, levels + 1):  # a loop, since a decomposed graph cannot contain a tensor made from numbers
        level = level + (extent >= 1 << power).to(torch.int64)
    return level
