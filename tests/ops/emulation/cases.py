"""Random cases of every operator: arguments, and the results of the PyTorch kernels.

A case depends only on its number, so that a failing case can be repeated. Maps have the layouts that kernels
distinguish, odd sizes, sizes at and beyond the limits of shared memory, and offsets beyond 2^31; some have no elements
or a NaN. The other arguments are sometimes parts of larger tensors. RoIs lie in, across and outside the
map, are inverted, empty or not finite, or name an image that does not exist.
"""

from __future__ import annotations

import importlib
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float32: 4e-6, torch.float64: 1e-12, torch.float16: 1e-3, torch.bfloat16: 8e-3}
MOST_ROUNDED = 0.05  # the part of the results in half precision that may be rounded to a neighbour
LAYOUTS = (
    "contiguous",
    "channels last",
    "cropped",
    "cropped channels last",
    "misaligned",
    "misaligned channels last",
    "padded rows, channels last",
    "expanded",
)
# (height, width): odd sizes, whole vectors and tiles, and one more. (36, 32) fits in 48 KiB of shared memory, but not
# beside a small static array; so does one channel of (1, 12288). Then sizes of 8 channels beyond 48 and 227 KiB.
# (255, 257) is the first size whose positions need more than 16 bits.
SIZES = ((1, 1), (1, 2), (3, 1), (5, 7), (8, 32), (9, 33), (16, 64), (23, 37), (36, 32), (38, 63), (64, 48))
LARGE_SIZES = ((61, 45), (90, 85), (1, 12288), (130, 130), (1, 60001), (255, 257))
BINS = ((1, 1), (7, 7), (7, 7), (3, 5), (14, 14), (33, 1), (1, 40))


@dataclass(frozen=True, slots=True)
class Check:
    """One call of an operator."""

    operator: str
    arguments: tuple[Any, ...]
    expected: tuple[Tensor | None, ...]  # None: not compared
    terms: float | None  # the allowed difference of sums, in roundings; None: equal

    def difference(self, results: Any) -> str:
        """Return a description of the first difference, or ""."""
        results = results if isinstance(results, tuple) else (results,)
        for ours, other in zip(results, self.expected, strict=True):
            if other is None:
                continue
            if (ours.dtype, ours.shape) != (other.dtype, other.shape):
                return f"{ours.dtype} {list(ours.shape)} in the place of {other.dtype} {list(other.shape)}"
            half = ours.dtype.itemsize == 2
            ours, other = ours.double(), other.double()
            wrong = (ours != other) & ~(ours.isnan() & other.isnan())
            if self.terms is not None and other.numel() != 0 and self.expected[0] is not None:
                bound = self.terms * TOLERANCE[self.expected[0].dtype] * max(1.0, other.abs().nan_to_num().max().item())
                # Sums in float32 that are rounded once differ in few places.
                if half and wrong.sum() > max(8, MOST_ROUNDED * wrong.numel()):
                    return f"{int(wrong.sum())} of {wrong.numel()} values are rounded in another way"
                wrong &= ~((ours - other).abs() <= bound)
            if wrong.any():
                at = tuple(wrong.nonzero()[0].tolist())
                count = int(wrong.sum())
                return f"{count} of {wrong.numel()} values differ, {ours[at]:.9g} for {other[at]:.9g} at {at}"
        return ""


def reference(module: str, function: str) -> Callable[..., Any]:
    """Return a PyTorch kernel as a function that returns tuples."""
    kernel = getattr(importlib.import_module(f"detector.ops.{module}"), function)

    def run(*arguments: Any) -> tuple[Tensor, ...]:
        result = kernel(*arguments)
        return result if isinstance(result, tuple) else (result,)

    return run


class Draw:
    """The random numbers of one case."""

    def __init__(self, number: int, dtypes: tuple[torch.dtype, ...] = DTYPES) -> None:
        self.dice = random.Random(number)
        self.layout_dice = random.Random(f"layout {number}")
        self.generator = torch.Generator().manual_seed(number)
        self.dtype = dtypes[number // len(GROUPS) % len(dtypes)]
        self.edges = torch.float64 if self.dtype == torch.float64 else torch.float32
        self.large = self.dice.random() < 0.15
        self.scale = self.dice.choice((1 / 16, 1 / 16, 1 / 8, 0.3, 1.0))
        self.layout = self.dice.choice(LAYOUTS)

    def numbers(self, *size: int) -> Tensor:
        values = torch.randn(*size, generator=self.generator)
        return ((values * 3).round() if self.dice.random() < 0.3 else values).to(self.dtype)  # with ties

    def channels(self) -> int:
        drawn = self.dice.choice((1, 3, 8, 9) if self.large else (1, 2, 7, 8, 9, 16, 24, 33))
        # Only whole vectors of channels depend on the padding of a row.
        return 8 * (1 + drawn % 3) if self.layout.startswith("padded") else drawn

    def features(self, fixed: int | None = None) -> Tensor:
        images = self.dice.choice((1, 2, 3))
        height, width = self.dice.choice(LARGE_SIZES if self.large else SIZES)
        if height * width > 2000:
            images = 1
        channels = fixed or self.channels()
        size = (images, channels, height, width)
        if self.layout_dice.random() < 0.04:
            # With a fixed number of channels the maps are score maps. Their PyTorch kernel needs cells.
            without = self.layout_dice.randrange(2 if fixed else 4)
            return self.numbers(*(0 if dim == without else length for dim, length in enumerate(size)))
        if images > 1 and self.layout_dice.random() < 0.5 and self.dtype.itemsize == 2:
            return far_apart(self.numbers(*size))
        if self.layout == "contiguous":
            return self.numbers(*size)
        if self.layout == "channels last":
            return self.numbers(*size).contiguous(memory_format=torch.channels_last)
        if self.layout.startswith("cropped"):
            # The margin is NaN, so that a read of it shows in the result.
            last = "last" in self.layout
            whole = torch.full((images, channels + 2, height + 2, width + 1), math.nan, dtype=self.dtype)
            whole = whole.contiguous(memory_format=torch.channels_last) if last else whole
            view = whole[:, 1:-1, 1:-1, 1:]
            return view.copy_(self.numbers(*size))
        if self.layout == "expanded":
            return self.numbers(1, *size[1:]).expand(images, -1, -1, -1)
        if self.layout.startswith("padded"):
            row = width * channels + 1
            whole = torch.full((images * height * row,), math.nan, dtype=self.dtype)
            return whole.as_strided(size, (height * row, 1, row, channels)).copy_(self.numbers(*size))
        flat = self.numbers(math.prod(size) + 1)[1:]  # one element off every alignment
        return (
            flat.view(images, height, width, channels).permute(0, 3, 1, 2) if "last" in self.layout else flat.view(size)
        )

    def sliced(self, dense: Tensor) -> Tensor:
        """Return the tensor, or sometimes a part of a larger one with the same values."""
        if dense.ndim == 0 or self.layout_dice.random() < 0.7:
            return dense
        margin = math.nan if dense.is_floating_point() else 0
        whole = torch.full((*dense.shape[:-1], dense.shape[-1] + 3), margin, dtype=dense.dtype)
        return whole[..., 1:-2].copy_(dense)

    def rois(self, size: torch.Size, *, wild: bool = True) -> Tensor:
        images, _, height, width = size
        count = self.dice.choice((1, 5, 20) if self.large else (0, 1, 2, 12, 40, 150, 300))
        corners = torch.rand(count, 4, generator=self.generator) * 1.4 - 0.2
        corners = torch.cat((corners[:, :2].minimum(corners[:, 2:]), corners[:, :2].maximum(corners[:, 2:])), dim=1)
        corners *= torch.tensor((width, height, width, height)) / self.scale
        image = torch.randint(max(images, 1), (count, 1), generator=self.generator).to(corners)
        for i in range(count):
            match self.dice.randrange(14):
                case 0:
                    corners[i] = (corners[i] / 8).round() * 8
                case 1:
                    corners[i] = corners[i, [2, 3, 0, 1]]
                case 2:
                    corners[i, 2:] = corners[i, :2]
                case 3:
                    corners[i] += self.dice.choice((-3, 3)) * width / self.scale
                case 4 | 5 | 6:
                    corners[i, 2:] = corners[i, :2] + (corners[i, 2:] - corners[i, :2]) * 0.15
                case 7 if wild:
                    corners[i, self.dice.randrange(4)] = self.dice.choice((math.nan, math.inf, -math.inf, 1e30, -3e9))
                case 8 if wild:
                    corners[i] = torch.tensor((-1e9, -1e9, 1e9, 1e9))
                case 9 if wild:
                    image[i] = self.dice.choice((images, -1, -0.5, images - 0.5, 1e20, math.nan, math.inf))
        return self.sliced(torch.cat((image, corners), dim=1).to(self.edges))

    def bins(self) -> tuple[int, int]:
        return self.dice.choice(BINS[:4] if self.large else BINS)

    def ratio(self, size: torch.Size) -> int:
        """Return the samples per bin and axis. 0 (one per cell) would take minutes on a map with thousands in a row."""
        return self.dice.choice((0, 1, 2, 3) if max(size[2:]) < 1000 else (1, 2))

    def gradient(self, rois: Tensor, channels: int, height: int, width: int) -> Tensor:
        if self.dice.random() < 0.3:  # as of a vote: one number for all bins
            return self.numbers(len(rois), channels, 1, 1).expand(-1, -1, height, width)
        values = self.numbers(len(rois), channels, height, width)
        if values.numel() > 0 and len(rois) > 1 and self.dtype.itemsize == 2 and self.layout_dice.random() < 0.3:
            return far_apart(values)
        return self.sliced(values)


def far_apart(values: Tensor) -> Tensor:
    """Return the values [N, ...] with the last beyond 2^31 elements from the first. Untouched memory takes no space."""
    step = 2**31 // (len(values) - 1) + 8
    whole = torch.empty(step * (len(values) - 1) + values[0].numel(), dtype=values.dtype)
    return whole.as_strided(values.shape, (step, *values.stride()[1:])).copy_(values)


def with_nan(draw: Draw, maps: Tensor) -> Tensor:
    """Return the maps, or sometimes with a NaN in some cells."""
    if maps.numel() == 0 or 0 in maps.stride() or draw.layout_dice.random() < 0.85:
        return maps
    return maps.masked_fill_(torch.rand(maps.shape, generator=draw.generator) < 0.002, math.nan)


def roi_pool(draw: Draw) -> Iterator[Check]:
    features = draw.features()
    if draw.dice.random() < 0.2:
        features = features.masked_fill(torch.rand(features.shape, generator=draw.generator) < 0.03, math.nan)
    rois, (height, width) = draw.rois(features.shape), draw.bins()
    forward = reference("roi_pool", "_reference")
    for rule in draw.dice.sample(("caffe", "floor", "split", "outer"), 2):
        arguments = (features, rois, height, width, draw.scale, rule)
        expected = forward(*arguments, True)
        yield Check("roi_pool", (*arguments, True), expected, None)
        yield Check("roi_pool", (*arguments, False), forward(*arguments, False), None)
    argmax = draw.sliced(expected[1])
    scattered = (draw.gradient(rois, features.shape[1], height, width), rois, argmax, list(features.shape))
    yield Check("roi_pool_scatter", scattered, reference("roi_pool", "_scatter_reference")(*scattered), 4)
    gathered = (features, rois, argmax)
    yield Check("roi_pool_gather", gathered, reference("roi_pool", "_gather_reference")(*gathered), None)


def roi_align(draw: Draw) -> Iterator[Check]:
    features, (height, width) = with_nan(draw, draw.features()), draw.bins()
    ratio = draw.ratio(features.shape)
    options = (draw.scale, ratio, draw.dice.random() < 0.6, draw.dice.random() < 0.4)
    # An adaptive RoI that extends to 1e9 has too many samples for the PyTorch kernel's memory.
    rois, size = draw.rois(features.shape, wild=ratio > 0), list(features.shape)
    forward = (features, rois, height, width, *options)
    yield Check("roi_align", forward, reference("roi_align", "_mean_reference")(*forward), 2)
    backward = (draw.gradient(rois, size[1], height, width), rois, size, *options)
    terms = max(4.0, len(rois) * height * width / 50)
    yield Check("roi_align_backward", backward, reference("roi_align", "_mean_grad_reference")(*backward), terms)
    pooled, argmax = reference("roi_align", "_max_reference")(*forward)
    argmax = draw.sliced(argmax)
    # If two samples are equal up to rounding, either may be the maximum.
    yield Check("roi_align_max", forward, (pooled, None), 2)
    scattered = (draw.gradient(rois, size[1], height, width), rois, argmax, size, *options)
    yield Check("roi_align_max_scatter", scattered, reference("roi_align", "_max_scatter_reference")(*scattered), terms)
    gathered = (features, rois, argmax, *options)
    yield Check("roi_align_max_gather", gathered, reference("roi_align", "_max_gather_reference")(*gathered), 2)


def roi_warp(draw: Draw) -> Iterator[Check]:
    features, (height, width) = draw.features(), draw.bins()
    rois, options = draw.rois(features.shape, wild=False), (draw.scale, 1, True, False)
    arguments = (features, rois, height, width)
    expected = reference("roi_align", "_mean_reference")(*arguments, *options)
    yield Check("roi_warp", (*arguments, draw.scale), expected, 2)
    grad = draw.gradient(rois, features.shape[1], height, width)
    to_features = reference("roi_align", "_mean_grad_reference")(grad, rois, list(features.shape), *options)
    to_rois = reference("roi_warp", "_roi_gradient")(grad, features, rois, draw.scale)
    terms = max(8.0, len(rois) * height * width / 50)
    yield Check("roi_warp_backward", (grad, features, rois, draw.scale), to_features + to_rois, terms)


def position_sensitive(draw: Draw) -> Iterator[Check]:
    k = draw.dice.choice((1, 2, 3) if draw.large else (1, 2, 3, 7))
    classes = draw.dice.choice((1, 2, 9) if draw.large or k == 7 else (1, 2, 8, 9, 21))
    maps = draw.features(classes * k * k)
    half = maps.element_size() == 2
    if half and 0 not in maps.stride() and draw.layout_dice.random() < 0.5:
        maps.add_(4)  # sums in half precision would then lose digits
    maps = with_nan(draw, maps)
    classes = maps.shape[1] // (k * k)  # 0 in maps without elements
    rois, size = draw.rois(maps.shape), list(maps.shape)
    shared = (maps, rois, k, draw.scale)
    terms = 1.0 if half else 4.0  # sums in float32 are rounded to half precision once
    yield Check("ps_roi_pool", shared, reference("ps_roi_pool", "_pool_reference")(*shared), terms)
    yield Check("ps_roi_vote", shared, reference("ps_roi_pool", "_vote_reference")(*shared), terms)
    backward = (draw.gradient(rois, classes, k, k), rois, size, draw.scale)
    terms = max(4.0, len(rois) / 2)
    yield Check("ps_roi_pool_backward", backward, reference("ps_roi_pool", "_backward_reference")(*backward), terms)
    for argmax in (True, False):
        arguments = (*shared, argmax)
        yield Check("ps_roi_pool_max", arguments, reference("ps_roi_pool", "_max_reference")(*arguments), None)
        yield Check("ps_roi_vote_max", arguments, reference("ps_roi_pool", "_vote_max_reference")(*arguments), 4)
    ratio = draw.ratio(maps.shape)
    rois = rois if ratio > 0 else draw.rois(maps.shape, wild=False)
    sampled = (maps, rois, k, draw.scale, ratio)
    yield Check("ps_roi_align", sampled, reference("ps_roi_align", "_reference")(*sampled), 2)
    backward = (draw.gradient(rois, classes, k, k), rois, size, draw.scale, ratio)
    yield Check("ps_roi_align_backward", backward, reference("ps_roi_align", "_backward_reference")(*backward), terms)


def deformable(draw: Draw) -> Iterator[Check]:
    k = draw.dice.choice((1, 2, 3) if draw.large else (1, 2, 3, 7))
    groups, per_group = draw.dice.choice(((1, 1), (1, 4), (2, 2), (3, 1)))
    classes = groups * per_group
    maps = draw.features(classes * k * k)
    classes = maps.shape[1] // (k * k)  # 0 in maps without elements
    rois, size = draw.rois(maps.shape), list(maps.shape)
    offsets = torch.randn(len(rois), 2 * groups, k, k, generator=draw.generator)
    offsets *= draw.dice.choice((0.0, 1.0, 5.0))
    if draw.dice.random() < 0.2:
        wild = torch.rand(offsets.shape, generator=draw.generator) < 0.05
        offsets = offsets.masked_fill(wild, draw.dice.choice((math.nan, math.inf, 1e30)))
    offsets = draw.sliced(offsets.to(draw.edges))
    options = (draw.scale, draw.dice.choice((0.1, 1.0)), draw.dice.choice((1, 2, 4, 5)))
    grad = draw.gradient(rois, classes, k, k)
    terms = max(4.0, len(rois) / 2)
    for given in (offsets, None):
        arguments = (maps, rois, given, k, *options)
        yield Check("deform_ps_roi_pool", arguments, reference("deform_ps_roi_pool", "_reference")(*arguments), 4)
        backward = (grad, rois, given, size, *options)
        expected = reference("deform_ps_roi_pool", "_backward_reference")(*backward)
        yield Check("deform_ps_roi_pool_backward", backward, expected, terms)
    move = (grad, maps, rois, offsets, *options)
    expected = reference("deform_ps_roi_pool", "_offset_gradient")(*move)
    yield Check("deform_ps_roi_pool_offset_grad", move, expected, 16)


def nms(draw: Draw) -> Iterator[Check]:
    count = draw.dice.choice((0, 1, 2, 63, 64, 65, 129, 700, 1025, 1500, 4200 if draw.large else 300))
    spread, side = draw.dice.choice(((300, 120), (30, 120), (3000, 60), (0, 50)))
    many = draw.large and draw.layout_dice.random() < 0.3  # more words than the threads of a block read at once
    if many:
        count, spread, side = 12500, 30, 0
    corners = torch.rand(count, 2, generator=draw.generator) * spread
    boxes = torch.cat((corners, corners + torch.rand(count, 2, generator=draw.generator) * side - 4), dim=1)
    if many:
        boxes[:, 2:] += 40  # of one size: few are kept, so that the last words are decided too
    if draw.dice.random() < 0.3:
        boxes = (boxes / 8).round() * 8
    boxes = boxes.to(draw.dtype)
    if draw.dice.random() < 0.3:
        wild = torch.rand(boxes.shape, generator=draw.generator) < 0.02
        boxes = boxes.masked_fill(wild, draw.dice.choice((math.nan, math.inf, -math.inf)))
    steps = draw.dice.choice((2, 50, 10**6))
    scores = (torch.rand(count, generator=draw.generator) * steps).round() / steps
    labels = draw.dice.choice((None, torch.randint(-3, 20, (count,), generator=draw.generator)))
    if labels is not None and draw.layout_dice.random() < 0.3:
        labels += torch.randint(2, (count,), generator=draw.generator) << 32  # some are equal in their lower half only
    scores, labels = draw.sliced(scores), labels if labels is None else draw.sliced(labels)
    if draw.layout.startswith("cropped"):
        boxes = torch.cat((boxes, boxes), dim=1)[:, 4:]
    for _ in range(1 if count > 1000 else 3):
        most = 300 if many else draw.dice.choice((None, None, 0, 1, 40, 300, count, 10**6))
        arguments = (boxes, scores, labels, draw.dice.choice((0.0, 0.3, 0.5, 0.7, 1.0)), most)
        yield Check("nms", arguments, reference("nms", "_reference")(*arguments), None)


GROUPS: dict[str, Callable[[Draw], Iterator[Check]]] = {
    "roi_pool": roi_pool,
    "roi_align": roi_align,
    "roi_warp": roi_warp,
    "position_sensitive": position_sensitive,
    "deformable": deformable,
    "nms": nms,
}
