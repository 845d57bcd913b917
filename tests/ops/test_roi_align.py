"""`roi_align` and `roi_warp` against plain loops, torchvision, numerical gradients and each other."""

import itertools
import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detector.ops import roi_align, roi_warp
from detector.ops.roi_align import (
    _max_gather_reference,
    _max_reference,
    _max_scatter_reference,
    _mean_grad_reference,
    _mean_reference,
)
from detector.ops.roi_warp import _grads_reference

OPTIONS = list(itertools.product([0, 2, 3], [True, False], [True, False]))  # sampling_ratio, aligned, inner
RELATIVE = 4e-6  # float32 sums in another order


def random_rois(count: int, seed: int, images: int = 2, side: float = 160.0) -> Tensor:
    """Return RoIs in, across and outside an image of the given side, some inverted."""
    generator = torch.Generator().manual_seed(seed)
    corners = (torch.rand(count, 4, generator=generator) * 1.6 - 0.3) * side
    image = torch.randint(images, (count, 1), generator=generator)
    return torch.cat((image.to(corners.dtype), corners), dim=1)


def bilinear(plane: Tensor, y: float, x: float) -> float:
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    fy, fx = y - top, x - left
    return float(
        plane[top, left] * (1 - fy) * (1 - fx)
        + plane[top, right] * (1 - fy) * fx
        + plane[bottom, left] * fy * (1 - fx)
        + plane[bottom, right] * fy * fx
    )


def align_in_loops(
    features: Tensor,
    rois: Tensor,
    size: tuple[int, int],
    scale: float,
    ratio: int,
    aligned: bool,
    inner: bool,
    best: bool,
) -> Tensor:
    """Return RoIAlign computed with loops in float64."""
    pooled = torch.zeros(len(rois), features.shape[1], *size, dtype=torch.float64)
    for r, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (value * scale - (0.5 if aligned else 0.0) for value in corners)
        width, height = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1), max(y2 - y1, 1))
        bin_height, bin_width = height / size[0], width / size[1]
        rows, columns = (ratio or max(math.ceil(extent), 0) for extent in (bin_height, bin_width))
        for c, p, q in itertools.product(range(features.shape[1]), range(size[0]), range(size[1])):
            samples = []
            for i, j in itertools.product(range(rows), range(columns)):
                at_y, at_x = (
                    ((i + 1) / (rows + 1), (j + 1) / (columns + 1))
                    if inner
                    else ((i + 0.5) / rows, (j + 0.5) / columns)
                )
                samples.append(
                    bilinear(features[int(image), c], y1 + (p + at_y) * bin_height, x1 + (q + at_x) * bin_width)
                )
            if samples:
                pooled[r, c, p, q] = max(samples) if best else sum(samples) / len(samples)
    return pooled


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(OPTIONS), st.sampled_from([(1, 1), (2, 3)]), st.booleans())
def test_roi_align_equals_plain_loops(
    seed: int, options: tuple[int, bool, bool], size: tuple[int, int], best: bool
) -> None:
    ratio, aligned, inner = options
    features = torch.randn(2, 2, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    rois = random_rois(4, seed).double()
    pooled = roi_align(
        features, rois, size, 1 / 16, sampling_ratio=ratio, aligned=aligned,
        reduction="max" if best else "mean", sample_grid="inner" if inner else "centers",
    )  # fmt: skip
    torch.testing.assert_close(
        pooled, align_in_loops(features, rois, size, 1 / 16, *options, best), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_equals_torchvision(ratio: int, aligned: bool) -> None:
    features = torch.randn(2, 40, 38, 63, generator=torch.Generator().manual_seed(0))
    rois = random_rois(100, 2, side=900)
    rois[:, 3:] = torch.maximum(rois[:, 1:3], rois[:, 3:])  # torchvision divides by 0 for some inverted RoIs
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    pooled = roi_align(ours, rois, 7, 1 / 16, sampling_ratio=ratio, aligned=aligned)
    expected = torchvision.ops.roi_align(theirs, rois, 7, 1 / 16, ratio or -1, aligned)
    torch.testing.assert_close(pooled, expected, rtol=RELATIVE, atol=RELATIVE)
    weight = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1))
    pooled.backward(weight)
    expected.backward(weight)
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=RELATIVE, atol=RELATIVE * float(theirs.grad.abs().max()))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_kernels_equal_the_references(options: tuple[int, bool, bool], dtype: torch.dtype) -> None:
    ops = torch.ops.fast_rfcn
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(3, 35, 13, 21, generator=generator).to(dtype)
    features[0, :, 0, 0] = math.nan  # read only by samples inside the map
    rois = random_rois(15, 1, images=3, side=300).to(torch.float64 if dtype == torch.float64 else torch.float32)
    scale = {torch.float64: 1e-12, torch.float32: RELATIVE, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[dtype]

    def close(actual: Tensor, expected: Tensor) -> None:
        atol = scale * max(1.0, float(expected.nan_to_num().abs().max()))
        torch.testing.assert_close(actual, expected, rtol=scale, atol=atol, equal_nan=True)

    for layout in (torch.contiguous_format, torch.channels_last):
        features = features.to(memory_format=layout)
        close(ops.roi_align.default(features, rois, 7, 7, 1 / 16, *options),
              _mean_reference(features, rois, 7, 7, 1 / 16, *options))  # fmt: skip
    grad = torch.randn(15, 35, 7, 7, generator=generator).to(dtype)
    size = list(features.shape)
    close(ops.roi_align_backward.default(grad, rois, size, 1 / 16, *options),
          _mean_grad_reference(grad, rois, size, 1 / 16, *options))  # fmt: skip
    pooled, argmax = ops.roi_align_max.default(features, rois, 7, 7, 1 / 16, *options)
    expected, expected_argmax = _max_reference(features, rois, 7, 7, 1 / 16, *options)
    close(pooled, expected)
    assert (argmax == expected_argmax).float().mean() > 0.999  # samples that are equal up to rounding may swap
    close(ops.roi_align_max_scatter.default(grad, rois, argmax, size, 1 / 16, *options),
          _max_scatter_reference(grad, rois, argmax, size, 1 / 16, *options))  # fmt: skip
    close(ops.roi_align_max_gather.default(features, rois, argmax, 1 / 16, *options),
          _max_gather_reference(features, rois, argmax, 1 / 16, *options))  # fmt: skip
    close(pooled, _max_gather_reference(features, rois, argmax, 1 / 16, *options))


@pytest.mark.parametrize("image", [-1.0, 3.0, math.nan])
def test_maxima_of_rois_without_an_image_do_not_count(image: float) -> None:
    ops, options = torch.ops.fast_rfcn, (1 / 16, 2, True, False)
    features = torch.randn(3, 2, 13, 21, generator=torch.Generator().manual_seed(8))
    rois = random_rois(6, 4, images=3, side=300)
    _, argmax = _max_reference(features, rois, 7, 7, *options)
    without = rois.clone()
    without[::2, 0] = image
    for gather in (_max_gather_reference, ops.roi_align_max_gather.default):
        picked = gather(features, without, argmax, *options)
        assert not picked[::2].any()
        torch.testing.assert_close(picked[1::2], gather(features, rois, argmax, *options)[1::2])
    grad, size = torch.ones_like(picked), list(features.shape)
    for scatter in (_max_scatter_reference, ops.roi_align_max_scatter.default):
        total = scatter(grad, without, argmax, size, *options)
        torch.testing.assert_close(total, scatter(grad[1::2], rois[1::2], argmax[1::2], size, *options))


@pytest.mark.parametrize("options", [(0, True, False), (2, False, True)], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "max"])
def test_gradients_are_correct(reduction: str, options: tuple[int, bool, bool]) -> None:
    ratio, aligned, inner = options
    features = torch.randn(2, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rois = random_rois(4, 3, side=70).double()

    def pool(features: Tensor) -> Tensor:
        return roi_align(
            features, rois, (2, 2), 1 / 16, sampling_ratio=ratio, aligned=aligned,
            reduction=reduction, sample_grid="inner" if inner else "centers",
        )  # fmt: skip

    assert torch.autograd.gradcheck(pool, features)
    assert torch.autograd.gradgradcheck(lambda f: pool(f).square(), features)


def test_samples_outside_the_map_count_as_0_in_the_maximum() -> None:
    features = torch.full((1, 1, 4, 4), -1.0)
    rois = torch.tensor([[0.0, -200, -200, 64, 64]])
    assert roi_align(features, rois, 1, 1 / 16, sampling_ratio=4, reduction="max") == 0
    assert roi_align(features, rois, 1, 1 / 16, sampling_ratio=1, reduction="max") == 0


def test_a_roi_without_area_gives_zero_under_adaptive_sampling() -> None:
    rois = torch.tensor([[0.0, 30, 30, 30, 30], [0, 50, 50, 20, 20]])
    for reduction in ("mean", "max"):
        assert not roi_align(torch.ones(1, 2, 8, 8), rois, 3, 1 / 16, reduction=reduction).any()


def test_roi_warp_equals_roi_align_with_one_sample() -> None:
    features = torch.randn(2, 40, 13, 21, generator=torch.Generator().manual_seed(0))
    rois = random_rois(30, 8, side=300)
    warped = roi_warp(features, rois, (14, 9), 1 / 16)
    assert torch.equal(warped, roi_align(features, rois, (14, 9), 1 / 16, sampling_ratio=1))


def test_roi_warp_gradients_for_features_and_corners_are_correct() -> None:
    features = torch.randn(2, 2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rois = random_rois(4, 9, side=90).double()
    corners = rois[:, 1:].clone().requires_grad_()

    def warp(features: Tensor, corners: Tensor) -> Tensor:
        return roi_warp(features, torch.cat((rois[:, :1], corners), dim=1), (2, 3), 1 / 16)

    assert torch.autograd.gradcheck(warp, (features, corners))
    assert torch.autograd.gradgradcheck(warp, (features, corners))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_roi_warp_kernel_equals_the_reference(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 45, 13, 21, generator=generator).to(dtype)
    features[:, :, 0, 0] = math.nan
    rois = random_rois(30, 8, side=300).to(torch.float64 if dtype == torch.float64 else torch.float32)
    grad = torch.randn(30, 45, 7, 5, generator=generator).to(dtype)
    actual = torch.ops.fast_rfcn.roi_warp_backward.default(grad, features, rois, 1 / 16)
    for ours, expected in zip(actual, _grads_reference(grad, features, rois, 1 / 16), strict=True):
        scale = 1e-12 if dtype == torch.float64 else 2e-5
        torch.testing.assert_close(ours, expected, rtol=scale, atol=scale * 20, equal_nan=True)


def test_gradient_steps_through_roi_warp_move_a_box_to_a_blob() -> None:
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(20.0), indexing="ij")
    features = torch.exp(-((y - 12) ** 2 + (x - 7) ** 2) / 30).view(1, 1, 20, 20)
    corners = torch.tensor([[60.0, 60, 160, 160]], requires_grad=True)
    for _ in range(60):
        loss = -roi_warp(features, [corners], 5, 1 / 16).sum()
        (step,) = torch.autograd.grad(loss, corners)
        with torch.no_grad():
            corners -= 60 * step
    centre = (corners[0, :2] + corners[0, 2:]) / 2 / 16 - 0.5
    torch.testing.assert_close(centre, torch.tensor([7.0, 12.0]), atol=0.3, rtol=0)
