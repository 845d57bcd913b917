"""The sample positions of RoIAlign and RoIWarp, and the cells and bilinear weights of each sample.

The positions on one axis do not depend on the other axis, so a RoI's samples are the product of its rows and columns.
Source: Mask R-CNN 3; torchvision for the border rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from detector.ops.roi_pool import image_index


class Axis(NamedTuple):
    """Samples along one axis: sample i of bin p is at start + p * size + (i + shift) * size / divisions."""

    start: Tensor  # [R] in cells
    size: Tensor  # [R] size of a bin in cells
    divisions: Tensor  # [R] number of samples, or one more for the inner grid
    per_bin: Tensor  # [R] int64, samples per bin
    shift: float

    def at(self, roi: Tensor, bin_index: Tensor, sample: Tensor) -> Tensor:
        """Positions [S], in cells, of samples [S] of bins `bin_index` [S] of RoIs `roi` [S]; the three broadcast."""
        start, size = self.start[roi], self.size[roi]
        within = (sample.to(start.dtype) + self.shift) * size / self.divisions[roi]
        return start + bin_index.to(start.dtype) * size + within


def sample_axis(
    low: Tensor, high: Tensor, bins: int, spatial_scale: float, sampling_ratio: int, aligned: bool, inner: bool
) -> Axis:
    """Samples along one axis, in feature cells, of RoIs with ends `low`, `high` [R] in input pixels."""
    offset = 0.5 if aligned else 0.0
    start = low * spatial_scale - offset
    extent = high * spatial_scale - offset - start
    if not aligned:
        extent = extent.clamp(min=1)
    size = extent / low.new_full((), bins)
    if sampling_ratio > 0:
        count = torch.full_like(low, sampling_ratio, dtype=torch.int64)
    else:
        count = size.ceil().nan_to_num(nan=0.0).clamp(0, 1 << 15).to(torch.int64)
    divisions = (count + 1 if inner else count.clamp(min=1)).to(low.dtype)
    return Axis(start, size, divisions, count, 1.0 if inner else 0.5)


def neighbours(position: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lower and upper cell (int64) of positions on an axis of `size` cells, and their bilinear weights.

    Outside [-1, size] both weights are 0. Inside, positions are clamped to [0, size - 1].
    """
    inside = (position >= -1) & (position <= size)
    clamped = position.where(inside, 0).clamp(min=0)
    lower = clamped.to(torch.int64).clamp(max=size - 1)
    upper = (lower + 1).clamp(max=size - 1)
    fraction = torch.where(lower < size - 1, clamped - lower.to(clamped.dtype), 0)
    weight = inside.to(clamped.dtype)
    return lower, upper, (1 - fraction) * weight, fraction * weight


class Corners(NamedTuple):
    """The four cells that each sample reads, with bilinear weights. A sample outside the map has weights 0."""

    cells: Tensor  # [S, 4] int64, rows of the features as [N * H * W, C]
    weights: Tensor  # [S, 4]
    inside: Tensor  # [S] bool


def _corners(y: Tensor, x: Tensor, images: Tensor, map_height: int, map_width: int) -> Corners:
    """The corners of samples at positions y, x [S]."""
    top, bottom, weight_top, weight_bottom = neighbours(y, map_height)
    left, right, weight_left, weight_right = neighbours(x, map_width)
    row = images * map_height
    cells = torch.stack(
        ((row + top) * map_width + left, (row + top) * map_width + right,
         (row + bottom) * map_width + left, (row + bottom) * map_width + right), dim=1
    )  # fmt: skip
    weights = torch.stack(
        (weight_top * weight_left, weight_top * weight_right,
         weight_bottom * weight_left, weight_bottom * weight_right), dim=1
    )  # fmt: skip
    return Corners(cells, weights, (weight_top + weight_bottom) * (weight_left + weight_right) > 0)


class Grid(NamedTuple):
    """The samples of all RoIs: one axis each for rows and columns, and the image that each RoI reads."""

    rows: Axis
    columns: Axis
    images: Tensor  # [R] int64, -1 for none
    height: int
    width: int
    map_height: int
    map_width: int

    @property
    def counts(self) -> Tensor:
        """Samples per bin of each RoI [R]."""
        return (self.rows.per_bin * self.columns.per_bin).masked_fill(self.images < 0, 0)

    def samples(self, bins: Tensor, sample: Tensor) -> Corners:
        """Corners of samples [S] (indices within the bin) in bins [S] (flattened indices of (roi, row, column))."""
        roi = bins.div(self.height * self.width, rounding_mode="floor")
        in_roi = bins % (self.height * self.width)
        columns = self.columns.per_bin[roi].clamp(min=1)
        y = self.rows.at(roi, in_roi.div(self.width, rounding_mode="floor"), sample.div(columns, rounding_mode="floor"))
        x = self.columns.at(roi, in_roi % self.width, sample % columns)
        return _corners(y, x, self.images[roi], self.map_height, self.map_width)


def make_grid(
    rois: Tensor,
    size: Sequence[int],
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    inner: bool,
) -> Grid:
    """The samples of rois [R, 5] on features of the given size [N, C, H, W]."""
    options = (spatial_scale, sampling_ratio, aligned, inner)
    rows = sample_axis(rois[:, 2], rois[:, 4], height, *options)
    columns = sample_axis(rois[:, 1], rois[:, 3], width, *options)
    return Grid(rows, columns, image_index(rois, size[0]), height, width, size[2], size[3])
