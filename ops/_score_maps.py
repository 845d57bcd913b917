"""The layout of position-sensitive score maps, and the sparse sums that the PyTorch kernels use on them.

Channel (d * k + i) * k + j of [N, D * k * k, H, W] is the evidence for class d in bin (i, j), so all classes of one
bin read the same cells. `Taps` lists these cells once for each bin; a kernel gathers them for all D classes together.
A kernel reads no other cells, so a NaN outside a bin does not change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from detector.ops._arguments import checked_rois, output_pair

# Maximum size in bytes of the gathered cells of a group of RoIs in the PyTorch kernels.
GROUP_BYTES = 64 << 20


class Taps(NamedTuple):
    """The T cells that the bins of some RoIs read, sorted by RoI, then bin, then row-major cell."""

    bin: Tensor  # [T] int64, index into the flattened [R, k, k]
    cell: Tensor  # [T] int64, index into the flattened [N, k, k, H, W]
    weight: Tensor  # [T] of the edge dtype


class Spans(NamedTuple):
    """Rows (or columns) that each bin of each RoI reads, padded to the longest list."""

    cells: Tensor  # [R, k, S] int64
    weights: Tensor  # [R, k, S] of the edge dtype
    valid: Tensor  # [R, k, S] bool, False where padded


def checked_arguments(
    op: str, score_maps: Tensor, rois: Tensor | Sequence[Tensor], output_size: int | Sequence[int]
) -> tuple[Tensor, int]:
    """RoIs [R, 5] in the edge dtype, and k bins per side. Raises ValueError unless score_maps have D k k channels."""
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
    """Score maps [N, D * k * k, H, W] as a view [N, k, k, H, W, D]: all classes of each cell of each bin."""
    num_images, channels, height, width = score_maps.shape
    shape = (num_images, channels // (bins * bins), bins, bins, height, width)
    maps: Tensor = score_maps.unflatten(1, shape[1:4])
    return maps.permute(0, 2, 3, 4, 5, 1)


def grouped_taps(images: Tensor, rows: Spans, columns: Spans, size: Sequence[int]) -> Iterator[tuple[slice, Taps]]:
    """Taps of the bins, in groups of RoIs whose gathered cells fit GROUP_BYTES.

    `images` [R] int64 is the image of each RoI, -1 for none. `size` [N, D * k * k, H, W] is the size of the score maps.
    A tap's weight is its row's weight times its column's weight. Bins count from the start of the group.
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
    """The scores [T, D] of all classes in each `cell` [T] of score maps flattened to [N, k, k, H, W]."""
    maps = by_bin(score_maps, bins)
    return maps[torch.unravel_index(cell, maps.shape[:-1])]


def weighted_sums(score_maps: Tensor, images: Tensor, rows: Spans, columns: Spans) -> Tensor:
    """The weighted sums [R, D, k, k] of each bin's cells of the score maps of images [R], in float32 or better."""
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
    """The transpose of `weighted_sums`: adds grad [R, D, k, k] times the weights to images [N, D * k * k, H, W]."""
    bins = rows.cells.shape[1]
    classes = size[1] // (bins * bins)
    dtype = torch.promote_types(grad.dtype, torch.float32)
    total = grad.new_zeros((size[0] * bins * bins * size[2] * size[3], classes), dtype=dtype)
    for part, taps in grouped_taps(images, rows, columns, size):
        values = grad[part].permute(0, 2, 3, 1).reshape(-1, classes).to(dtype)
        total.index_add_(0, taps.cell, values[taps.bin] * taps.weight[:, None])
    maps = total.view(size[0], bins, bins, size[2], size[3], classes).permute(0, 5, 1, 2, 3, 4)
    return maps.reshape(tuple(size)).to(grad.dtype)
