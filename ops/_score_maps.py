"""Score maps as position-sensitive operators read them, and the sparse sums that their PyTorch kernels are made of.

Channel (d * k + i) * k + j of [N, D * k * k, H, W] is the evidence for class d in bin (i, j), so all classes of one
bin read the same cells. A `Taps` lists these cells once for every bin; a kernel gathers them for all D classes
together. Only cells that a bin reads are ever touched: a NaN elsewhere stays elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from detector.ops._arguments import checked_rois, output_pair

# Bytes that the gathered cells of one group of RoIs may take in the PyTorch kernels.
GROUP_BYTES = 64 << 20


class Taps(NamedTuple):
    """Cells read by the bins of some RoIs; T in all, sorted by RoI, then bin, then row-major cell."""

    bin: Tensor  # [T] int64, index into the flattened [R, k, k]
    cell: Tensor  # [T] int64, index into the flattened [N, k, k, H, W]
    weight: Tensor  # [T] of the edge dtype


class Spans(NamedTuple):
    """Rows (or columns) that each bin of each RoI reads, as a list padded to the longest."""

    cells: Tensor  # [R, k, S] int64
    weights: Tensor  # [R, k, S] of the edge dtype
    valid: Tensor  # [R, k, S] bool, False where padded


def checked_arguments(
    op: str, score_maps: Tensor, rois: Tensor | Sequence[Tensor], output_size: int | Sequence[int]
) -> tuple[Tensor, int]:
    """RoIs [R, 5] in the edge dtype, and the bins k per side; ValueError unless the channels are D * k * k."""
    height, width = output_pair(op, output_size)
    if height != width:
        raise ValueError(f"{op}: expected output_size as an int k or a pair (k, k), got {output_size}")
    rois = checked_rois(op, score_maps, rois)
    if score_maps.shape[1] % (height * height) != 0:
        raise ValueError(
            f"{op}: expected D * {height} * {height} channels of score maps, got {score_maps.shape[1]}; "
            "give the head output_size ** 2 channels per class"
        )
    return rois, height


def by_bin(score_maps: Tensor, bins: int) -> Tensor:
    """Score maps [N, D * k * k, H, W] as a view [N, k, k, H, W, D]: for every cell of every bin, its classes."""
    num_images, channels, height, width = score_maps.shape
    shape = (num_images, channels // (bins * bins), bins, bins, height, width)
    maps: Tensor = score_maps.unflatten(1, shape[1:4])
    return maps.permute(0, 2, 3, 4, 5, 1)


def grouped_taps(images: Tensor, rows: Spans, columns: Spans, size: Sequence[int]) -> Iterator[tuple[slice, Taps]]:
    """Taps of the bins, in groups of RoIs whose gathered cells fit GROUP_BYTES.

    `images` [R] int64 is the image of each RoI, -1 for none; `size` is that of the score maps, [N, D * k * k, H, W].
    A tap's weight is the product of its row's and its column's. Bins count from the start of the group.
    """
    bins, map_height, map_width = rows.cells.shape[1], size[2], size[3]
    classes = size[1] // (bins * bins)
    per_roi = bins * bins * rows.cells.shape[2] * columns.cells.shape[2] * (8 * classes + 40)
    step = max(1, GROUP_BYTES // max(1, per_roi))
    position = torch.arange(bins * bins, device=images.device).view(1, bins, bins, 1, 1)
    for start in range(0, images.shape[0] if classes > 0 else 0, step):
        part = slice(start, start + step)
        image = images[part]
        valid = rows.valid[part, :, None, :, None] & columns.valid[part, None, :, None, :]
        valid = valid & (image >= 0)[:, None, None, None, None]  # [r, k, k, rows, columns]
        cell = image[:, None, None, None, None] * (bins * bins) + position
        cell = (cell * map_height + rows.cells[part, :, None, :, None]) * map_width
        cell = cell + columns.cells[part, None, :, None, :]
        weight = rows.weights[part, :, None, :, None] * columns.weights[part, None, :, None, :]
        bin_index = torch.arange(len(image) * bins * bins, device=images.device).view(-1, bins, bins, 1, 1)
        yield part, Taps(bin_index.expand_as(valid)[valid], cell[valid], weight[valid])


def gather(score_maps: Tensor, cell: Tensor, bins: int) -> Tensor:
    """The classes [T, D] of cells of the flattened [N, k, k, H, W]."""
    maps = by_bin(score_maps, bins)
    return maps[torch.unravel_index(cell, maps.shape[:-1])]


def weighted_sums(score_maps: Tensor, images: Tensor, rows: Spans, columns: Spans) -> Tensor:
    """For each bin the weighted sum [R, D, k, k] of its cells, in float32 or better."""
    bins = rows.cells.shape[1]
    classes = score_maps.shape[1] // (bins * bins)
    sums = score_maps.new_zeros(
        (images.shape[0], bins, bins, classes), dtype=torch.promote_types(score_maps.dtype, torch.float32)
    )
    for part, taps in grouped_taps(images, rows, columns, score_maps.shape):
        values = gather(score_maps, taps.cell, bins).to(sums.dtype) * taps.weight[:, None]
        sums[part].flatten(0, 2).index_add_(0, taps.bin, values)
    return sums.permute(0, 3, 1, 2)


def mean_backward(grad: Tensor, images: Tensor, rows: Spans, columns: Spans, size: Sequence[int]) -> Tensor:
    """Adjoint of `weighted_sums`: grad [R, D, k, k] times the weights, added to cells, [N, D * k * k, H, W]."""
    bins = rows.cells.shape[1]
    classes = size[1] // (bins * bins)
    dtype = torch.promote_types(grad.dtype, torch.float32)
    total = grad.new_zeros((size[0] * bins * bins * size[2] * size[3], classes), dtype=dtype)
    for part, taps in grouped_taps(images, rows, columns, size):
        values = grad[part].permute(0, 2, 3, 1).reshape(-1, classes).to(dtype)
        total.index_add_(0, taps.cell, values[taps.bin] * taps.weight[:, None])
    maps = total.view(size[0], bins, bins, size[2], size[3], classes).permute(0, 5, 1, 2, 3, 4)
    return maps.reshape(tuple(size)).to(grad.dtype)
