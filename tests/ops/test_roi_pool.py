"""`roi_pool` against plain loops, torchvision, adaptive pooling and its properties."""

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detector.ops import roi_pool
from detector.ops.roi_pool import QUANTIZATIONS, bin_edges
from detector.ops.roi_pool import _reference as reference


def random_rois(count: int, seed: int, images: int = 2, side: float = 160.0) -> Tensor:
    """Return RoIs in, across and outside an image of the given side, some inverted, some on exact halves of a cell."""
    generator = torch.Generator().manual_seed(seed)
    corners = (torch.rand(count, 4, generator=generator) * 1.6 - 0.3) * side
    corners[::4] = (corners[::4] / 8).round() * 8
    image = torch.randint(images, (count, 1), generator=generator)
    return torch.cat((image.to(corners.dtype), corners), dim=1)


def bins_of(low: float, high: float, bins: int, scale: float, size: int, rule: str) -> Iterator[range]:
    """Yield the cells of each bin along one axis, computed in float64 and exact fractions."""

    def away(value: float) -> int:
        return int(math.copysign(math.floor(abs(value) + 0.5), value))

    for p in range(bins):
        if rule == "caffe":
            start, cells = away(low * scale), max(away(high * scale) - away(low * scale) + 1, 1)
            step = cells / bins
            first, end = math.floor(p * step), math.ceil((p + 1) * step)
        elif rule == "floor":
            start, step = math.floor(low * scale), math.floor((high - low) * scale) // bins
            first, end = p * step, (p + 1) * step
        elif rule == "split":
            start, cells = away(low * scale), away(high * scale) - away(low * scale)
            first, end = math.floor(Fraction(p * cells, bins)), math.floor(Fraction((p + 1) * cells, bins))
        else:
            start, cells = math.floor(low * scale), math.ceil(high * scale) - math.floor(low * scale)
            first, end = math.floor(Fraction(p * cells, bins)), math.ceil(Fraction((p + 1) * cells, bins))
        yield range(min(max(start + first, 0), size), min(max(start + end, 0), size))


def pool_in_loops(
    features: Tensor, rois: Tensor, size: tuple[int, int], scale: float, rule: str
) -> tuple[Tensor, Tensor]:
    """Return pooled values and flat argmax, computed with loops."""
    _, channels, height, width = features.shape
    pooled = torch.zeros(len(rois), channels, *size, dtype=features.dtype)
    argmax = torch.full(pooled.shape, -1)
    for r, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        for p, rows in enumerate(bins_of(y1, y2, size[0], scale, height, rule)):
            for q, columns in enumerate(bins_of(x1, x2, size[1], scale, width, rule)):
                cells = [(y, x) for y in rows for x in columns]
                for c in range(channels) if cells else ():
                    values = [features[int(image), c, y, x].item() for y, x in cells]
                    best = next((i for i, v in enumerate(values) if math.isnan(v)), int(np.argmax(values)))
                    pooled[r, c, p, q] = values[best]
                    argmax[r, c, p, q] = cells[best][0] * width + cells[best][1]
    return pooled, argmax


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from(QUANTIZATIONS),
    st.sampled_from([(1, 1), (2, 3), (7, 7)]),
    st.sampled_from([1 / 16, 1 / 8, 1 / 20]),
    st.booleans(),
)
def test_roi_pool_equals_plain_loops(seed: int, rule: str, size: tuple[int, int], scale: float, special: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randint(-3, 4, (2, 3, 9, 11), generator=generator).double()  # many ties
    if special:
        features[torch.rand(features.shape, generator=generator) < 0.1] = math.nan
        features[torch.rand(features.shape, generator=generator) < 0.3] = -math.inf
    rois = random_rois(6, seed).double()
    expected, argmax = pool_in_loops(features, rois, size, scale, rule)
    features.requires_grad_()
    pooled = roi_pool(features, rois, size, scale, quantization=rule)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=0, equal_nan=True)
    (grad,) = torch.autograd.grad(pooled, features, torch.ones_like(pooled))
    counts = torch.zeros(grad.numel(), dtype=grad.dtype)
    plane = rois[:, 0].long()[:, None] * 3 + torch.arange(3)
    index = plane[:, :, None, None] * 99 + argmax
    counts.index_add_(0, index[argmax >= 0], torch.ones(int((argmax >= 0).sum()), dtype=grad.dtype))
    assert torch.equal(grad.flatten(), counts)


@pytest.mark.parametrize("channels", [1, 3, 32, 45, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_roi_pool_equals_the_reference_bit_for_bit(
    channels: int, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    generator = torch.Generator().manual_seed(channels)
    features = torch.randn(3, channels, 13, 21, generator=generator).relu().to(dtype).to(memory_format=layout)
    features[0, :, 3, 4] = math.nan
    rois = random_rois(40, 1, images=3, side=300).to(torch.float64 if dtype == torch.float64 else torch.float32)
    for size in ((7, 7), (3, 5), (14, 2)):
        for rule in QUANTIZATIONS:
            pooled, argmax = torch.ops.fast_rfcn.roi_pool.default(features, rois, *size, 1 / 16, rule, True)
            expected, expected_argmax = reference(features, rois, *size, 1 / 16, rule, True)
            torch.testing.assert_close(pooled, expected, rtol=0, atol=0, equal_nan=True)
            assert torch.equal(argmax, expected_argmax)
            alone = torch.ops.fast_rfcn.roi_pool.default(features, rois, *size, 1 / 16, rule, False)[0]
            torch.testing.assert_close(alone, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_roi_pool_equals_torchvision(dtype: torch.dtype) -> None:
    features = torch.randn(2, 40, 38, 63, generator=torch.Generator().manual_seed(0)).relu().to(dtype)
    rois = random_rois(150, 2, side=900).to(dtype)
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    pooled = roi_pool(ours, rois, 7, 1 / 16)
    expected = torchvision.ops.roi_pool(theirs, rois, 7, 1 / 16)
    assert torch.equal(pooled, expected)
    weight = torch.randint(-4, 5, pooled.shape, generator=torch.Generator().manual_seed(1)).to(dtype)  # sums are exact
    pooled.backward(weight)
    expected.backward(weight)
    assert torch.equal(ours.grad, theirs.grad)


def test_outer_equals_adaptive_max_pooling_of_the_slice() -> None:
    features = torch.randn(1, 5, 20, 30, generator=torch.Generator().manual_seed(0))
    pooled = roi_pool(features, torch.tensor([[0.0, 37, 50, 410, 290]]), 7, 1 / 16, quantization="outer")
    expected = torch.nn.functional.adaptive_max_pool2d(features[:, :, 3:19, 2:26], 7)
    assert torch.equal(pooled, expected)


@pytest.mark.parametrize("rule", QUANTIZATIONS)
def test_pooling_a_constant_gives_the_constant_or_0(rule: str) -> None:
    pooled = roi_pool(
        torch.full((1, 3, 20, 20), 2.5), random_rois(50, 3, images=1, side=320), 3, 1 / 16, quantization=rule
    )
    assert set(pooled.unique().tolist()) <= {0.0, 2.5}
    whole = roi_pool(
        torch.full((1, 3, 20, 20), 2.5), torch.tensor([[0.0, 0, 0, 300, 300]]), 3, 1 / 16, quantization=rule
    )
    assert (whole == 2.5).all(), "0 only for empty bins"


def test_large_maps_have_an_argmax_beyond_16_bits() -> None:
    features = torch.zeros(1, 2, 300, 400, requires_grad=True)
    with torch.no_grad():
        features[0, 1, 299, 399] = 5  # cell 119999 does not fit 16 bits
    pooled = roi_pool(features, torch.tensor([[0.0, 0, 0, 399, 299]]), 1, 1.0)
    pooled.sum().backward()
    assert features.grad is not None
    assert features.grad[0, 1, 299, 399] == 1
    assert features.grad[0, 0, 0, 0] == 1
    assert features.grad.sum() == 2


@pytest.mark.parametrize("coordinate", [math.nan, math.inf, -math.inf, 3e38, -3e38])
def test_extreme_coordinates_give_finite_values(coordinate: float) -> None:
    features = torch.ones(1, 2, 8, 8)
    for column in range(1, 5):
        rois = torch.tensor([[0.0, 8, 8, 64, 64]])
        rois[0, column] = coordinate
        for rule in QUANTIZATIONS:
            assert torch.isfinite(roi_pool(features, rois, 7, 1 / 16, quantization=rule)).all()


def test_bin_edges_are_inside_the_map_and_in_order() -> None:
    rois = random_rois(200, 5, side=500)
    for rule in QUANTIZATIONS:
        first, end = bin_edges(rois[:, 1], rois[:, 3], 7, 1 / 16, 30, rule)
        assert ((first >= 0) & (end <= 30)).all()
        assert (first.diff(dim=1) >= 0)[rois[:, 1] <= rois[:, 3]].all()


def test_second_order_gathers_at_the_argmax() -> None:
    features = torch.randn(2, 1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rois = random_rois(4, 4, side=70).double()
    for rule in QUANTIZATIONS:
        assert torch.autograd.gradcheck(
            lambda f, rule=rule: roi_pool(f, rois, (2, 2), 1 / 16, quantization=rule), features
        )
        assert torch.autograd.gradgradcheck(
            lambda f, rule=rule: roi_pool(f, rois, (2, 2), 1 / 16, quantization=rule).square(), features
        )


def test_backward_without_an_argmax_computes_it_again() -> None:
    features = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rois = random_rois(6, 6, images=1)
    grads = []
    for with_argmax in (True, False):
        pooled = torch.ops.fast_rfcn.roi_pool.default(features, rois, 2, 2, 1 / 16, "caffe", with_argmax)[0]
        grads += torch.autograd.grad(pooled.sum(), features)
    assert torch.equal(*grads)
