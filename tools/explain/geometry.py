"""The bins, cells, samples, areas and values of an operator for one RoI, computed with the operators themselves.

Edges and sample positions come from the functions of the operators' PyTorch kernels, values from the public operators,
and the winners of maxima from their gradients. All positions are in cells; cell i covers [i, i + 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from detector import ops
from detector.configs.errors import ConfigError
from detector.ops.boxes import to_rois
from detector.ops.ps_roi_pool import bin_edges as score_map_edges
from detector.ops.roi_pool import bin_edges as pool_edges
from detector.ops.sample_grid import sample_axis

OPERATORS: dict[str, Callable[..., Tensor]] = {
    "roi_pool": ops.roi_pool,
    "roi_align": ops.roi_align,
    "roi_warp": ops.roi_warp,
    "ps_roi_pool": ops.ps_roi_pool,
    "ps_roi_vote": ops.ps_roi_vote,
    "ps_roi_align": ops.ps_roi_align,
}
MOST_SAMPLES = 4096


class Rect(NamedTuple):
    """A rectangle in cells; it is empty if an end is not after its start."""

    left: float
    top: float
    right: float
    bottom: float

    def area(self) -> float:
        """Return the area; 0 for an inverted rectangle."""
        return max(self.right - self.left, 0.0) * max(self.bottom - self.top, 0.0)

    def cut(self, other: Rect) -> Rect:
        """The part of this rectangle inside another rectangle."""
        return Rect(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )


@dataclass(frozen=True, slots=True)
class Samples:
    """The bilinear samples of every bin."""

    x: Tensor  # [w, m] positions of the samples of a column of bins
    y: Tensor  # [h, n]
    values: Tensor  # [h, w, n, m]
    winners: Tensor | None  # [h, w] index of the largest in the flattened [n, m]; None for a mean


@dataclass(frozen=True, slots=True)
class Explanation:
    """The computation of an operator for one RoI, step by step."""

    op: str
    maps: Tensor  # [1, H, W], or the k * k score maps of one class
    roi: Rect  # the given RoI, scaled but not rounded
    rounded: Rect | None  # the RoI in whole cells; None if the operator does not round
    rows: list[tuple[float, float]]  # start and end of the bins
    columns: list[tuple[float, float]]
    pooled: Tensor  # [h, w]
    vote: float | None  # for position-sensitive operators
    samples: Samples | None  # for operators that interpolate
    cells: dict[tuple[int, int], tuple[int, int]]  # bin -> (row, column) of its largest cell, for maxima of cells
    gradient: Tensor  # [1 or k * k, H, W], of the sum of the outputs of all RoIs

    @property
    def covered(self) -> Rect:
        """The rectangle that all bins together cover; it is empty if the bins have no cells."""
        if all(end <= start for start, end in self.rows) or all(end <= start for start, end in self.columns):
            return Rect(0, 0, 0, 0)
        return Rect(self.columns[0][0], self.rows[0][0], self.columns[-1][1], self.rows[-1][1])

    def bin(self, row: int, column: int) -> Rect:
        """Return the rectangle of a bin, in cells."""
        return Rect(self.columns[column][0], self.rows[row][0], self.columns[column][1], self.rows[row][1])

    def areas(self) -> dict[str, float]:
        """Areas in cells: the RoI, its read part, its parts lost by corners and by bins, the gained part outside."""
        assert self.rounded is not None
        kept, read = self.roi.cut(self.rounded).area(), self.roi.cut(self.covered).area()
        return {
            "RoI": self.roi.area(),
            "read": read,
            "lost by rounding corners": self.roi.area() - kept,
            "lost by rounding bins": kept - read,
            "gained": self.covered.area() - read,
        }


def explain(
    op: str, maps: Tensor, boxes: Tensor, output_size: tuple[int, int], spatial_scale: float, options: dict[str, Any]
) -> Explanation:
    """Explain `op` for the first of boxes [R, 4] (x1, y1, x2, y2 in input pixels) on maps [C, H, W].

    Raises:
        ConfigError: C is not 1 (for position-sensitive operators: not k * k), or there are too many samples to draw.
        ValueError: the operator does not accept its arguments.
    """
    sensitive = op.startswith("ps_")
    expected = output_size[0] * output_size[1] if sensitive else 1
    square = output_size[0] == output_size[1]  # if False, the operator raises the error
    if maps.shape[0] != expected and (square or not sensitive):
        reason = f", one for each of {output_size[0]} x {output_size[1]} bins" if sensitive else ""
        raise ConfigError(f"map: {op} needs {expected} channel(s){reason}, got {maps.shape[0]}; give another map=")
    features = maps[None].clone().requires_grad_()
    rois = to_rois([boxes])
    pooling = "ps_roi_pool" if op == "ps_roi_vote" else op
    outputs = OPERATORS[op](features, rois, output_size, spatial_scale, **options)
    gradient = torch.autograd.grad(outputs.sum(), features)[0][0]
    pooled = OPERATORS[pooling](features, rois[:1], output_size, spatial_scale, **options)
    vote = float(pooled.detach().mean()) if sensitive else None
    if op == "ps_roi_vote":
        vote = float(outputs.detach()[0, 0])
    samples, rounded = None, None
    x1, y1, x2, y2 = (float(value) for value in boxes[0])
    # In the published pooling layers, x2 and y2 are the last pixels inside; in all others they are the ends.
    last = 1.0 if pooling == "ps_roi_pool" or options.get("quantization") == "caffe" else 0.0
    scaled = Rect(x1 * spatial_scale, y1 * spatial_scale, (x2 + last) * spatial_scale, (y2 + last) * spatial_scale)
    if pooling in ("roi_pool", "ps_roi_pool"):
        edges = (rois[:1], spatial_scale, maps.shape[1:], options.get("quantization"))
        rows, columns = _bins(*edges, output_size)
        whole_rows, whole_columns = _bins(*edges, (1, 1))
        rounded = Rect(whole_columns[0][0], whole_rows[0][0], whole_columns[0][1], whole_rows[0][1])
    else:
        samples, rows, columns = _samples(op, maps, boxes[:1], output_size, spatial_scale, options)
    maxima = samples is None and (op == "roi_pool" or options.get("reduction") == "max")
    cells = _winning_cells(pooled[0, 0], features) if maxima else {}
    return Explanation(
        op, maps, scaled, rounded, rows, columns, pooled.detach()[0, 0], vote, samples, cells, gradient.detach()
    )


def _bins(
    rois: Tensor, spatial_scale: float, size: torch.Size, quantization: str | None, bins: tuple[int, int]
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """First and end cells of bins (rows, columns): for roi_pool with a `quantization`, for ps_roi_pool without one."""
    axes = []
    for axis, (low, high) in enumerate(((rois[:, 2], rois[:, 4]), (rois[:, 1], rois[:, 3]))):
        if quantization is None:
            first, end = score_map_edges(low, high, bins[axis], spatial_scale, size[axis])
        else:
            first, end = pool_edges(low, high, bins[axis], spatial_scale, size[axis], quantization)
        axes.append([(float(a), float(b)) for a, b in zip(first[0], end[0], strict=True)])
    return axes[0], axes[1]


def _samples(
    op: str, maps: Tensor, box: Tensor, output_size: tuple[int, int], spatial_scale: float, options: dict[str, Any]
) -> tuple[Samples, list[tuple[float, float]], list[tuple[float, float]]]:
    """The samples, and the rows and columns of their bins."""
    ratio = 1 if op == "roi_warp" else int(options.get("sampling_ratio", 0))
    rule = (spatial_scale, ratio, options.get("aligned", True), options.get("sample_grid") == "inner")
    spans, places = [], []
    for axis, bins in enumerate(output_size):
        line = sample_axis(box[:, 1 - axis], box[:, 3 - axis], bins, *rule)
        count = int(line.per_bin)
        if count > MOST_SAMPLES // bins:
            raise ConfigError(f"{count} samples per bin are too many to draw; give sampling_ratio=2")
        first = torch.zeros(1, dtype=torch.int64)
        # Position 0 is the centre of cell 0 in the operator, but its edge in the picture.
        places.append(line.at(first, torch.arange(bins)[:, None], torch.arange(count)[None]) + 0.5)
        start, size = float(line.start) + 0.5, float(line.size)
        spans.append([(start + i * size, start + (i + 1) * size) for i in range(bins)])
    y, x = places
    rows, columns = (axis.flatten().double() for axis in (y, x))
    if len(rows) * len(columns) > MOST_SAMPLES:
        raise ConfigError(f"{len(rows) * len(columns)} samples are too many to draw; give sampling_ratio=2")
    # A RoI of size 0 is a single sample, so the operator itself computes the value of each sample.
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)  # [S, 2] y, x
    points = to_rois([torch.cat((grid.flip(1), grid.flip(1)), dim=1)])
    every = ops.roi_align(maps[None].double(), points, 1, 1.0, sampling_ratio=1)[:, :, 0, 0]
    shape = (output_size[0], y.shape[1], output_size[1], x.shape[1])
    if op.startswith("ps_"):  # each bin reads its own map
        own = torch.arange(maps.shape[0]).view(output_size[0], 1, output_size[1], 1).expand(shape).reshape(-1, 1)
        every = every.gather(1, own)
    values = every[:, 0].view(shape).permute(0, 2, 1, 3)
    largest = options.get("reduction") == "max" and values.shape[2] * values.shape[3] > 0
    winners = values.flatten(2).argmax(dim=2) if largest else None
    return Samples(x, y, values, winners), spans[0], spans[1]


def _winning_cells(pooled: Tensor, features: Tensor) -> dict[tuple[int, int], tuple[int, int]]:
    """For each bin, the cell that gets its gradient."""
    winners = {}
    for row in range(pooled.shape[0]):
        for column in range(pooled.shape[1]):
            gradient = torch.autograd.grad(pooled[row, column], features, retain_graph=True)[0]
            found = gradient[0].nonzero()
            if len(found):
                winners[row, column] = (int(found[0, 1]), int(found[0, 2]))
    return winners
