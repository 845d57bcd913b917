"""Random cases of every operator: arguments, and the results of the PyTorch kernels.

A case depends only on its number, so that a failing case can be repeated. Maps have the layouts that kernels
distinguish, odd sizes, sizes at and beyond the limits of shared memory, and offsets beyond 2^31; some have no elements
or a NaN. The other arguments are sometimes parts of larger tensors. RoIs lie in, across and outside the
map, are inverted, empty or not finite, or name an image that does not exist. Each call also comes once with an argument
that the operator must refuse.
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
# (height, width): odd sizes, whole vectors and tiles, and one more. (36, 32) just fits in 48 KiB of shared memory. So
# does one channel of (1, 12288), but not beside a small static array. Then sizes of 8 channels beyond 48 and 227 KiB.
# (255, 257) is the first size whose positions need more than 16 bits.
SIZES = ((1, 1), (1, 2), (3, 1), (5, 7), (8, 32), (9, 33), (16, 64), (23, 37), (36, 32), (38, 63), (64, 48))
LARGE_SIZES = ((61, 45), (90, 85), (1, 12288), (130, 130), (1, 60001), (255, 257))
BEYOND_16_BITS = (290, 259)  # positions of 65536 and more
BEYOND_FLOAT32 = 1 - 2.0**-26  # a product with it is no float32; one that ends in a half rounds down
BINS = ((1, 1), (7, 7), (7, 7), (3, 5), (14, 14), (33, 1), (1, 40))


@dataclass(frozen=True, slots=True)
class Check:
    """One call of an operator."""

    operator: str
    arguments: tuple[Any, ...]
    expected: tuple[Tensor | None, ...]  # None: not compared
    terms: float | None  # the allowed difference of sums, in roundings; None: equal
    derive: Callable[..., tuple[Tensor, ...]] | None = None  # from the results: compared in their place
    refused: str = ""  # a pattern of the error that these arguments must raise

    def difference(self, results: Any) -> str:
        """Return a description of the first difference, or ""."""
        results = results if isinstance(results, tuple) else (results,)
        results = results if self.derive is None else self.derive(*results)
        for ours, other in zip(results, self.expected, strict=True):
            if other is None:
                continue
            if (ours.dtype, ours.shape) != (other.dtype, other.shape):
                return f"{ours.dtype} {list(ours.shape)} in the place of {other.dtype} {list(other.shape)}"
            dtype = other.dtype
            ours, other = ours.double(), other.double()
            wrong = (ours != other) & ~(ours.isnan() & other.isnan())
            if self.terms is not None and other.numel() != 0 and dtype in TOLERANCE:
                bound = self.terms * TOLERANCE[dtype] * max(1.0, other.abs().nan_to_num().max().item())
                # Sums in float32 that are rounded once differ in few places.
                if dtype.itemsize == 2 and wrong.sum() > max(8, MOST_ROUNDED * wrong.numel()):
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
        self.rare_dice = random.Random(f"rare {number}")
        self.edge_dice = random.Random(f"edge {number}")  # of calls beyond the first ones
        self.generator = torch.Generator().manual_seed(number)
        self.dtypes = dtypes
        self.dtype = dtypes[number // len(GROUPS) % len(dtypes)]
        self.edges = torch.float64 if self.dtype == torch.float64 else torch.float32
        self.large = self.dice.random() < 0.15
        self.scale = self.dice.choice((1 / 16, 1 / 16, 1 / 8, 0.3, 1.0))
        self.layout = self.dice.choice(LAYOUTS)

    def numbers(self, *size: int) -> Tensor:
        values = torch.randn(*size, generator=self.generator)
        values = ((values * 3).round() if self.dice.random() < 0.3 else values).to(self.dtype)  # with ties
        return values * BEYOND_FLOAT32 if self.dtype == torch.float64 else values

    def channels(self) -> int:
        drawn = self.dice.choice((1, 3, 8, 9) if self.large else (1, 2, 7, 8, 9, 12, 16, 33))
        if self.layout == "channels last" and not self.large and self.rare_dice.random() < 0.25:
            return 12  # vectors, but the last group has four channels
        # Only whole vectors of channels depend on the padding of a row.
        return 8 * (1 + drawn % 3) if self.layout.startswith("padded") else drawn

    def features(self, fixed: int | None = None) -> Tensor:
        images = self.dice.choice((1, 2, 3))
        height, width = self.dice.choice(LARGE_SIZES if self.large else SIZES)
        if height * width > 2000:
            images = 1
        if (height, width) == LARGE_SIZES[-1] and self.rare_dice.random() < 0.5:
            height, width = BEYOND_16_BITS
        channels = fixed or self.channels()
        size = (images, channels, height, width)
        if self.layout_dice.random() < 0.04:
            # With a fixed number of channels the maps are score maps. Their PyTorch kernel needs cells.
            without = self.layout_dice.randrange(2 if fixed else 4)
            return self.numbers(*(0 if dim == without else length for dim, length in enumerate(size)))
        if images > 1 and self.layout_dice.random() < 0.5 and self.dtype.itemsize == 2:
            return self.far_apart(self.numbers(*size))
        if images == 1 and self.rare_dice.random() < 0.3 and self.dtype.itemsize == 2:
            return self.far_apart(self.numbers(*size))
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
        # One element off every alignment, or 8 bytes.
        start = self.rare_dice.choice((1, 8 // self.dtype.itemsize))
        flat = self.numbers(math.prod(size) + start)[start:]
        return (
            flat.view(images, height, width, channels).permute(0, 3, 1, 2) if "last" in self.layout else flat.view(size)
        )

    def sliced(self, dense: Tensor) -> Tensor:
        """Return the tensor, or sometimes a part of a larger one with the same values."""
        if dense.ndim == 0 or self.layout_dice.random() < 0.7:
            return dense
        margin = math.nan if dense.is_floating_point() else 0
        if dense.ndim == 1:
            return torch.full((2 * len(dense),), margin, dtype=dense.dtype)[::2].copy_(dense)
        whole = torch.full((*dense.shape[:-1], dense.shape[-1] + 3), margin, dtype=dense.dtype)
        return whole[..., 1:-2].copy_(dense)

    def far_apart(self, values: Tensor) -> Tensor:
        """Return the values with the last of a drawn dimension, mostly 0, beyond 2^31 elements from the first."""
        lengths = [dim for dim, length in enumerate(values.shape) if length > 1]
        if not lengths:
            return values
        return self.far(values, lengths[0] if self.rare_dice.random() < 0.6 else self.rare_dice.choice(lengths))

    def far(self, values: Tensor, dim: int) -> Tensor:
        """Return the values with the last of this dimension beyond 2^31 elements from the first.

        Untouched memory takes no space.
        """
        moved = values.movedim(dim, 0)
        step = 2**31 // (len(moved) - 1) + 8
        whole = torch.empty(step * (len(moved) - 1) + moved[0].numel(), dtype=values.dtype)
        strides = torch.empty(moved.shape, device="meta").stride()[1:]
        return whole.as_strided(moved.shape, (step, *strides)).copy_(moved).movedim(0, dim)

    def rois(self, size: torch.Size, *, wild: bool = True, whole: bool = False) -> Tensor:
        """Return RoIs [R, 5]. With `whole` they are five, and the first one covers the map."""
        images, _, height, width = size
        count = self.dice.choice((1, 5, 20) if self.large else (0, 1, 2, 12, 40, 150, 300))
        count = 5 if whole else count
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
        if whole:
            image[0], corners[0] = 0, torch.tensor((0, 0, width, height)) / self.scale
        rois = torch.cat((image, corners), dim=1).to(self.edges)
        if self.edges == torch.float64 and self.edge_dice.random() < 0.5:
            rois[:, 1:] *= BEYOND_FLOAT32
        return self.sliced(rois)

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
            return self.far_apart(values)
        return self.sliced(values)


def with_nan(draw: Draw, maps: Tensor) -> Tensor:
    """Return the maps, or sometimes with a NaN in some cells. These may be the first row and the first column.

    A sample outside the map must not read them.
    """
    if maps.numel() == 0 or 0 in maps.stride() or draw.layout_dice.random() < 0.75:
        return maps
    if draw.rare_dice.random() < 0.5:
        maps[:, ::2, 0] = maps[:, ::2, :, 0] = math.nan
    return maps.masked_fill_(torch.rand(maps.shape, generator=draw.generator) < 0.002, math.nan)


def roi_pool(draw: Draw) -> Iterator[Check]:
    features = draw.features()
    if draw.dice.random() < 0.2:
        features = features.masked_fill(torch.rand(features.shape, generator=draw.generator) < 0.03, math.nan)
    many = features.shape[2] * features.shape[3] > 30000
    rois, (height, width) = draw.rois(features.shape, whole=many), draw.bins()
    if many:  # so many bins that the map is laid out, and a thread copies several cells
        height, width = (1, 1900) if features.shape[2] == 1 else (44, 44)
    elif 0 < len(rois) <= 2 and draw.rare_dice.random() < 0.5:
        height, width = 1, 1600  # more than the entries of a round
    forward = reference("roi_pool", "_reference")
    for rule in draw.dice.sample(("caffe", "floor", "split", "outer"), 2):
        arguments = (features, rois, height, width, draw.scale, rule)
        expected = forward(*arguments, True)
        yield Check("roi_pool", (*arguments, True), expected, None)
        yield Check("roi_pool", (*arguments, False), forward(*arguments, False), None)
    argmax = draw.sliced(expected[1])
    scattered = (draw.gradient(rois, features.shape[1], height, width), rois, argmax, list(features.shape))
    terms = max(4.0, len(rois) * height * width / 200)
    yield Check("roi_pool_scatter", scattered, reference("roi_pool", "_scatter_reference")(*scattered), terms)
    gather = reference("roi_pool", "_gather_reference")
    yield Check("roi_pool_gather", (features, rois, argmax), gather(features, rois, argmax), None)
    if draw.edge_dice.random() < 0.15:
        lost = without_images(rois)
        yield Check("roi_pool_gather", (features, lost, argmax), gather(features, lost, argmax), None)
        for arguments in at_the_limits(draw):
            yield Check("roi_pool", arguments, forward(*arguments), None)


def without_images(rois: Tensor) -> Tensor:
    """Return the RoIs, every other one in an image that does not exist: their maxima do not count."""
    lost = rois.clone()
    lost[::2, 0] = -1
    return lost


def at_the_limits(draw: Draw) -> Iterator[tuple[Any, ...]]:
    """Yield arguments of roi_pool at the limits of shared memory, and with more RoIs than a block has threads.

    The first map and its bins take 48 KiB, but not beside a static array. The first eight channels of its cells are
    adjacent; they are aligned in each row, but not in each column. The second map is small, and fits in 48 KiB, but not
    beside so many bins. The last RoI ends at whole cells, but not with a scale of 0.3 in float32.
    """
    height = 72 if draw.dtype.itemsize == 2 else 36
    features = draw.numbers(1, 9, height, 32).contiguous(memory_format=torch.channels_last)
    rois = torch.tensor(((0, 0, 0, 110, 4 * height), (0, 3, 5, 20, 30)), dtype=draw.edges)
    yield features, rois, 8, 8, 0.3, "outer", True
    yield draw.numbers(1, 1, 7, 73), rois[1:], 1, 4200, 0.3, "outer", True
    many = torch.rand(1100, 5, generator=draw.generator).to(draw.edges) * torch.tensor((2, 3, 3, 6, 6))
    yield draw.numbers(2, 9, 5, 6), many, 1, 1, 1.0, "caffe", True


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
    gather = reference("roi_align", "_max_gather_reference")

    def values_at(pooled: Tensor, argmax: Tensor) -> tuple[Tensor, ...]:
        """Return the values of the maxima in place of their samples: of those equal up to rounding, each may win."""
        return pooled, gather(features, rois, argmax, *options)[0], argmax.clamp(max=0)

    yield Check("roi_align_max", forward, values_at(pooled, argmax), 2, values_at)
    scattered = (draw.gradient(rois, size[1], height, width), rois, argmax, size, *options)
    yield Check("roi_align_max_scatter", scattered, reference("roi_align", "_max_scatter_reference")(*scattered), terms)
    gathered = (features, rois, argmax, *options)
    yield Check("roi_align_max_gather", gathered, gather(*gathered), 2)
    if draw.dtype.itemsize == 2 and len(rois) > 0 and 0 not in size and draw.edge_dice.random() < 0.3:
        # A thread reads every fourth channel, and 2^29 numbers lie between two channels.
        backward = (draw.far(draw.numbers(len(rois), 5, height, width), 1), rois, [size[0], 5, *size[2:]], *options)
        yield Check("roi_align_backward", backward, reference("roi_align", "_mean_grad_reference")(*backward), terms)
    if draw.edge_dice.random() < 0.15:
        gathered = (features, without_images(rois), argmax, *options)
        yield Check("roi_align_max_gather", gathered, gather(*gathered), 2)
        # The only sample lies at the end of the map, which is the end of a tile.
        at_end = torch.tensor([(0, 32, 8, 33, 9)], dtype=draw.edges)
        backward = (draw.numbers(1, 1, 1, 1), at_end, [1, 1, 8, 32], 1.0, 1, True, False)
        yield Check("roi_align_backward", backward, reference("roi_align", "_mean_grad_reference")(*backward), 4)
        if draw.dtype.itemsize == 2:
            maps = draw.far(draw.numbers(1, 2, 2, 2), draw.edge_dice.choice((2, 3)))
            whole = torch.tensor([(0.0, 0.0, 0.0, 2.0, 2.0)])
            gathered = (maps, whole, argmax.new_zeros(1, 2, 2, 2), 1.0, 1, True, False)
            yield Check("roi_align_max_gather", gathered, gather(*gathered), 2)


def roi_warp(draw: Draw) -> Iterator[Check]:
    features, (height, width) = with_nan(draw, draw.features()), draw.bins()
    rois, options = draw.rois(features.shape, wild=False), (draw.scale, 1, True, False)
    arguments = (features, rois, height, width)
    expected = reference("roi_align", "_mean_reference")(*arguments, *options)
    yield Check("roi_warp", (*arguments, draw.scale), expected, 2)
    grad = draw.gradient(rois, features.shape[1], height, width)
    to_features = reference("roi_align", "_mean_grad_reference")(grad, rois, list(features.shape), *options)
    to_rois = reference("roi_warp", "_roi_gradient")(grad, features, rois, draw.scale)
    terms = max(8.0, len(rois) * height * width / 50)
    yield Check("roi_warp_backward", (grad, features, rois, draw.scale), to_features + to_rois, terms)
    if features.numel() < 20000 and draw.edge_dice.random() < 0.3:
        lost = without_images(rois)
        to_features = reference("roi_align", "_mean_grad_reference")(grad, lost, list(features.shape), *options)
        to_rois = reference("roi_warp", "_roi_gradient")(grad, features, lost, draw.scale)
        yield Check("roi_warp_backward", (grad, features, lost, draw.scale), to_features + to_rois, terms)
        if draw.dtype.itemsize == 2:
            grad, maps = (draw.far(draw.numbers(1, 2, 2, 2), draw.edge_dice.choice((2, 3))) for _ in range(2))
            whole = torch.tensor([(0.0, 0.0, 0.0, 2.0, 2.0)])
            to_features = reference("roi_align", "_mean_grad_reference")(grad, whole, [1, 2, 2, 2], 1.0, *options[1:])
            to_rois = reference("roi_warp", "_roi_gradient")(grad, maps, whole, 1.0)
            yield Check("roi_warp_backward", (grad, maps, whole, 1.0), to_features + to_rois, terms)


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
    offsets = draw.sliced(offsets.to(draw.edges) * BEYOND_FLOAT32)
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


def pairs(count: int, draw: Draw) -> Tensor:
    """Return boxes [N, 4] by falling score: some pairs, and many copies of one box.

    The second box of a pair is suppressed by the first one only, so that each bit of the mask counts. They are near, in
    neighbouring words, at the two ends of a round of 4,096 rows, or in different rounds.
    """
    boxes = torch.tensor((0.0, 0.0, 40.0, 40.0)).repeat(count, 1)
    free = set(range(count))
    apart = (1, 63, 66, 67, 200, 64 * 62 + 4, 64 * 63 + 5, 64 * 64 + 6, 64 * 100 + 7)  # no two end at the same box
    for number, first in enumerate(range(draw.rare_dice.randrange(8), count, max(16, count // 250))):
        second = first + apart[number % len(apart)]
        second = second if second < count else first + 74
        if first in free and second in free:
            boxes[[first, second]] += 50.0 * (number + 1)
            free -= {first, second}
    # From the last word of a round, for 300 or 2800 wanted boxes: to the next word, and to the last of many words.
    for number, (first, second) in enumerate(((1160, 1221), (4040, 4101), (1212, MANY - 400))):
        if {first, second} <= free:
            boxes[[first, second]] -= 50.0 * (number + 1)
            free -= {first, second}
    # Chains: only the second box overlaps the third by more than 0.3. The first one suppresses it, so the third, of a
    # later round, is kept.
    for number, places in enumerate(((900, 901, 2000), (900, 970, 1100), (3850, 3851, 4110), (3800, 3850, 4110))):
        if places[-1] + 80 < count:
            chain = [min(each for each in free if each >= place) for place in places]
            boxes[chain] -= 50.0 * (number + 4)
            boxes[chain, ::2] += torch.tensor((0.0, 12.0, 24.0))[:, None]
            free -= set(chain)
    return boxes.to(draw.dtype)


def nested(boxes: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Make pairs of boxes: one is a part of the other, with an IoU close to a threshold. The pairs do not overlap.

    The centers of such boxes are as far apart as centers can be with this IoU.
    """
    boxes = boxes.clone()
    small, large = boxes[: len(boxes) // 2 * 2].view(-1, 2, 4).unbind(1)
    if draw.rare_dice.random() < 0.3:
        small, large = large, small
    numbers = torch.arange(len(small))
    large[:, 2:] = (large[:, 2:] - large[:, :2]).abs() + 1
    large[:, :2] = torch.stack((numbers % 64, numbers // 64), dim=1) * 200.0 + draw.rare_dice.choice((0, 2**20))
    large[:, 2:] += large[:, :2]  # beyond 2^20, float32 has steps of 1/8
    small.copy_(large)
    least = torch.tensor((0.3, 0.5, 0.7))[torch.randint(3, (len(small),), generator=draw.generator)]
    ratio = least * (1 + 0.003 * torch.rand(len(small), generator=draw.generator))
    side = torch.randint(4, (len(small),), generator=draw.generator)
    across = large[numbers, (side + 2) % 4]
    small[numbers, side] = across + (large[numbers, side] - across) * ratio
    return boxes


def extreme(draw: Draw) -> tuple[Tensor, float]:
    """Return pairs of boxes, [N, 4], with sides or areas near the smallest or the largest numbers, and a threshold."""
    count = draw.edge_dice.choice((256, 900))
    corners = torch.randint(5, (count, 2), generator=draw.generator)
    sides = torch.randint(8, (count, 2), generator=draw.generator)
    # Coordinates are integers of these powers of two: of the smallest number and a large one, so that areas are rounded
    # to one or two bits, or so that some overflow.
    float32, float64 = ((-149, 100), (-77, -77), (62, 62)), ((-1074, 900), (-539, -539), (510, 510))
    powers = draw.edge_dice.choice(float64 if draw.dtype == torch.float64 else float32)
    low, high = draw.edge_dice.sample((0, 1), 2)  # the axes of these powers
    if powers[0] != powers[1]:  # they differ along one axis only
        corners[:, high], sides[:, high] = 0, 9
    corners[:, high] += torch.arange(count) // 2 * 14  # no two pairs overlap
    boxes = torch.cat((corners, corners + sides), dim=1).double()
    boxes[:, low::2] *= 2.0 ** powers[0]
    boxes[:, high::2] *= 2.0 ** powers[1]
    return boxes.to(draw.dtype), draw.edge_dice.choice((0.3, 0.5, 0.7))


def alike(draw: Draw) -> tuple[Tensor, float]:
    """Return boxes [300, 4] that are nearly copies of a few, and a threshold near 1, or one near 0."""
    few = torch.rand(4, 2, generator=draw.generator, dtype=torch.float64) * 600 - 400
    few = torch.cat((few, few + torch.rand(4, 2, generator=draw.generator, dtype=torch.float64) * 200), dim=1)
    steps = torch.randint(8, (300, 4), generator=draw.generator)
    step = torch.finfo(draw.dtype).eps
    boxes = few[torch.randint(4, (300,), generator=draw.generator)] * (1 + steps * step)
    return boxes.to(draw.dtype), draw.edge_dice.choice((1 - 4 * step, 1 - 20 * step, 1 - 50 * step, 1e-7, 1e-5))


def nms(draw: Draw) -> Iterator[Check]:
    count = draw.dice.choice((0, 1, 2, 63, 64, 65, 129, 700, 1025, 1500, 4200 if draw.large else 300))
    spread, side = draw.dice.choice(((300, 120), (30, 120), (3000, 60), (0, 50)))
    many = draw.large and draw.layout_dice.random() < 0.3
    if many:
        count, spread, side = MANY, 30, 0
    in_pairs = count > 1000 and draw.rare_dice.random() < 0.6
    if in_pairs and not many and draw.rare_dice.random() < 0.3:
        count = 4200  # more rows than a round
    corners = torch.rand(count, 2, generator=draw.generator) * spread
    boxes = torch.cat((corners, corners + torch.rand(count, 2, generator=draw.generator) * side - 4), dim=1)
    if many:
        boxes[:, 2:] += 40  # of one size: few are kept, so that the last words are decided too
    if draw.dice.random() < 0.3:
        boxes = (boxes / 8).round() * 8
    in_nests = draw.rare_dice.random() < 0.3
    if in_nests:
        boxes = nested(boxes, draw)
    boxes = boxes.to(draw.dtype)
    if draw.dtype == torch.float64 and draw.edge_dice.random() < 0.5:
        boxes += 1e8  # float32 has steps of 8 there
    if draw.dice.random() < 0.3:
        wild = torch.rand(boxes.shape, generator=draw.generator) < 0.02
        boxes = boxes.masked_fill(wild, draw.dice.choice((math.nan, math.inf, -math.inf)))
    steps = draw.dice.choice((2, 50, 10**6))
    scores = (torch.rand(count, generator=draw.generator) * steps).round() / steps
    if draw.rare_dice.random() < 0.4:  # negative scores, -0, infinite ones and NaN
        scores = scores * (torch.randint(2, (count,), generator=draw.generator) * 2 - 1)
        odd = torch.tensor((math.nan, -math.nan, math.inf, -math.inf))
        odd = odd[torch.randint(len(odd), (count,), generator=draw.generator)]
        scores = torch.where(torch.rand(count, generator=draw.generator) < 0.05, odd, scores)
    scores = scores.to(draw.dtype)
    if draw.dtype == torch.float64:  # some differ in digits that float32 does not have
        scores = scores + torch.randint(3, (count,), generator=draw.generator) * 1e-12
    labels = draw.dice.choice((None, torch.randint(-3, 20, (count,), generator=draw.generator)))
    if labels is not None and draw.layout_dice.random() < 0.3:
        labels += torch.randint(2, (count,), generator=draw.generator) << 32  # some are equal in their lower half only
    if in_pairs:
        boxes, labels = pairs(count, draw), None
        scores = torch.linspace(1, 0, count, dtype=draw.dtype)
    if in_nests:
        scores, labels = scores.sort(descending=True).values, None
    scores, labels = draw.sliced(scores), labels if labels is None else draw.sliced(labels)
    if draw.layout.startswith("cropped"):
        boxes = torch.cat((boxes, boxes), dim=1)[:, 4:]
    for _ in range(1 if count > 1000 else 3):
        most = 300 if many else draw.dice.choice((None, 2 * count // 3, 0, 1, 40, 300, count, 10**6))
        most = draw.rare_dice.choice((300, 2 * count // 3)) if in_pairs and not many else most
        threshold = draw.dice.choice((0.0, 0.3, 0.5, 0.7, 1.0))
        threshold = min(threshold, 0.7) if in_pairs or in_nests else threshold  # 1 would keep all boxes
        arguments = (boxes, scores, labels, threshold, most)
        yield Check("nms", arguments, reference("nms", "_reference")(*arguments), None)
    if draw.edge_dice.random() < 0.6:
        boxes, threshold = (alike if draw.dtype.itemsize == 2 else draw.edge_dice.choice((extreme, alike)))(draw)
        scores = torch.rand(len(boxes), generator=draw.generator).to(draw.edge_dice.choice(draw.dtypes))
        most = draw.edge_dice.choice((None, 2**40))
        arguments = (boxes, scores, None, threshold, most)
        yield Check("nms", arguments, reference("nms", "_reference")(*arguments), None)


# The places of the arguments that may be wrong, by operator.
PLACES = {
    "roi_pool": {"features": 0, "rois": 1, "height": 2, "rule": 5},
    "roi_pool_scatter": {"rois": 1, "argmax": 2, "size": 3},
    "roi_pool_gather": {"features": 0, "rois": 1, "argmax": 2},
    "roi_align": {"features": 0, "rois": 1, "height": 2},
    "roi_align_backward": {"rois": 1, "size": 2},
    "roi_align_max": {"features": 0, "rois": 1, "height": 2},
    "roi_align_max_scatter": {"rois": 1, "argmax": 2, "size": 3},
    "roi_align_max_gather": {"features": 0, "rois": 1, "argmax": 2},
    "roi_warp": {"features": 0, "rois": 1, "height": 2},
    "roi_warp_backward": {"features": 1, "rois": 2},
    "ps_roi_pool": {"features": 0, "rois": 1, "bins": 2},
    "ps_roi_pool_max": {"features": 0, "rois": 1, "bins": 2},
    "ps_roi_pool_backward": {"rois": 1, "size": 2},
    "ps_roi_vote": {"features": 0, "rois": 1, "bins": 2},
    "ps_roi_vote_max": {"features": 0, "rois": 1, "bins": 2},
    "ps_roi_align": {"features": 0, "rois": 1, "bins": 2},
    "ps_roi_align_backward": {"rois": 1, "size": 2},
    "deform_ps_roi_pool": {"features": 0, "rois": 1, "offsets": 2, "bins": 3, "samples": 6},
    "deform_ps_roi_pool_backward": {"rois": 1, "offsets": 2, "size": 3, "samples": 6},
    "deform_ps_roi_pool_offset_grad": {"features": 1, "rois": 2, "offsets": 3, "samples": 6},
}
MANY = 9_000  # boxes, of three rounds
TOO_MANY = 2**24 + 1  # boxes


def wrong_arguments(check: Check) -> Iterator[tuple[dict[int, Any], str]]:
    """Yield wrong values by the place of the argument, and the words of the error."""
    first, *_ = given = check.arguments
    if check.operator == "nms":
        scores, labels = given[1], given[2]
        yield {0: first[:, :3]}, "expected boxes"
        yield {0: first.flatten()}, "expected boxes"
        yield {1: torch.cat((scores, scores, scores.new_zeros(1)))}, "expected boxes"
        yield {1: scores[:, None]}, "expected boxes"
        if labels is not None:
            yield {2: labels.int()}, "expected labels"
            yield {2: torch.cat((labels, labels.new_zeros(1)))}, "expected labels"
        return
    at = PLACES[check.operator]
    rois = given[at["rois"]]
    other = torch.float32 if rois.dtype == torch.float64 else torch.float64
    yield {at["rois"]: rois[:, :4]}, "expected rois .R, 5."
    yield {at["rois"]: rois[:, :, None]}, "expected rois .R, 5."
    yield {at["rois"]: rois.to(other)}, "expected rois of float32"
    features = given[at["features"]] if "features" in at else None
    filled = len(rois) > 0 and (math.prod(given[at["size"]]) if features is None else features.numel()) > 0
    if features is not None:
        yield {at["features"]: features[None]}, "expected features .N, C"
    if filled and at.get("features") == 0 and rois.dtype == torch.float32:
        yield {0: features.int()}, "expected float32, float64, float16 or"
    if filled and "height" in at:
        yield {0: features[:, :1], 1: rois[:1], 2: 40000, 3: 1}, "expected at most"
    if filled and "bins" in at:
        yield {at["bins"]: 0}, "expected D"
        yield {at["bins"]: 1000}, "expected D"
    if at.get("features") == 1 and rois.dtype == torch.float32:  # the first is a gradient
        yield {0: first.to(torch.bfloat16 if first.dtype == torch.float16 else torch.float16)}, "expected a gradient"
    if "size" in at:
        size = given[at["size"]]
        yield {0: first.flatten(2)}, "expected a gradient .R, C"
        yield {at["size"]: size[:3]}, "expected a gradient .R, C"
        yield {0: torch.cat((first, first.new_zeros(1, *first.shape[1:])))}, "expected a gradient for each"
        if "ps_roi" in check.operator:
            yield {at["size"]: [size[0], size[1] + 1, *size[2:]]}, "expected a gradient .R, D"
            yield {0: torch.cat((first, first), dim=2)}, "expected a gradient .R, D"
            twice = [size[0], 2 * size[1], *size[2:]]
            yield {0: torch.cat((first, first), dim=2), at["size"]: twice}, "expected a gradient .R, D"
    if "rule" in at:
        yield {at["rule"]: "round"}, "expected quantization"
    if "argmax" in at and filled:
        argmax = given[at["argmax"]]
        yield {at["argmax"]: argmax[1:]}, "expected (an|one) argmax"
        yield {at["argmax"]: argmax.to(torch.int64)}, "expected (an|one) argmax"
    if "samples" in at:
        yield {at["samples"]: 0}, "expected at least one sample"
    if "offsets" in at and given[at["offsets"]] is not None:
        offsets = given[at["offsets"]]
        words = "expected offsets .R, 2"
        yield {at["offsets"]: offsets.to(other)}, "expected offsets of the dtype"
        yield {at["offsets"]: offsets[:, 1:]}, words
        yield {at["offsets"]: offsets[:, :0]}, words
        yield {at["offsets"]: torch.cat((offsets, offsets), dim=2)}, words
        yield {at["offsets"]: torch.cat((offsets, offsets), dim=3)}, words
        yield {at["offsets"]: torch.cat((offsets, offsets.new_zeros(1, *offsets.shape[1:])))}, words
        if filled:  # more groups than classes
            yield {at["offsets"]: offsets.repeat(1, 50, 1, 1)}, words


def with_refusals(group: Callable[[Draw], Iterator[Check]]) -> Callable[[Draw], Iterator[Check]]:
    """Return the group with one wrong call for each of its calls, at the end."""

    def checks(draw: Draw) -> Iterator[Check]:
        valid: list[Check] = []
        for check in group(draw):
            valid.append(check)
            yield check
        for check in valid:
            wrong, words = draw.rare_dice.choice(list(wrong_arguments(check)))
            arguments = tuple(wrong.get(i, value) for i, value in enumerate(check.arguments))
            yield Check(check.operator, arguments, (), None, refused=words)
        if valid[0].operator == "nms" and draw.rare_dice.random() < 0.1:
            boxes, scores = torch.zeros(1, 4, dtype=draw.dtype).expand(TOO_MANY, 4), torch.zeros(1).expand(TOO_MANY)
            yield Check("nms", (boxes, scores, None, 0.5, 1), (), None, refused="expected at most")

    return checks


GROUPS: dict[str, Callable[[Draw], Iterator[Check]]] = {
    "roi_pool": with_refusals(roi_pool),
    "roi_align": with_refusals(roi_align),
    "roi_warp": with_refusals(roi_warp),
    "position_sensitive": with_refusals(position_sensitive),
    "deformable": with_refusals(deformable),
    "nms": with_refusals(nms),
}
