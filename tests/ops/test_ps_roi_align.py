"""`ps_roi_align` against torchvision, bilinear sampling in plain loops, and its properties."""

import math
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor

from detector.ops import ps_roi_align

SCALE = 1 / 16
FLOAT32_SUM = 4e-6  # relative: the order of a float32 sum

# Ordinary, inverted, outside on each side, a point, the last cell, the whole map, far more than the map.
ROIS = torch.tensor(
    [
        (0, 3.2, 11.7, 61.4, 80.1),
        (1, 64, 64, 32, 32),
        (1, -200, -200, -100, -90),
        (0, 500, 10, 600, 50),
        (1, 40, 40, 40, 40),
        (0, 95, 79, 96, 80),
        (1, 0, 0, 96, 80),
        (0, -900, -900, 900, 900),
        (1, 64, 16, 32, 64),
    ],
    dtype=torch.float32,
)


def random_maps(dtype: torch.dtype = torch.float32, k: int = 3, classes: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, classes * k * k, 5, 6, generator=generator, dtype=torch.float64).to(dtype)


def sampled(maps: Tensor, rois: Tensor, k: int, scale: float, ratio: int) -> Tensor:
    """Return the means of bilinear samples [R, D, k, k], one at a time in float64."""
    height, width = maps.shape[2:]
    out = torch.zeros(len(rois), maps.shape[1] // (k * k), k, k, dtype=torch.float64)
    cells = maps.detach().double()
    for r, (image, *box) in enumerate(rois.double().tolist()):
        x1, y1, x2, y2 = (value * scale - 0.5 for value in box)
        down, across = (ratio or max(math.ceil(extent / k), 0) for extent in (y2 - y1, x2 - x1))
        for i in range(k):
            for j in range(k):
                score = cells[int(image)].unflatten(0, (-1, k, k))[:, i, j]
                for m in range(down):
                    for n in range(across):
                        y = y1 + (i + (m + 0.5) / down) * (y2 - y1) / k
                        x = x1 + (j + (n + 0.5) / across) * (x2 - x1) / k
                        if -1 <= y <= height and -1 <= x <= width:
                            out[r, :, i, j] += bilinear(score, y, x) / (down * across)
    return out


def bilinear(maps: Tensor, y: float, x: float) -> Tensor:
    y, x = (min(max(place, 0), size - 1) for place, size in zip((y, x), maps.shape[1:], strict=True))
    top, left = int(y), int(x)
    bottom, right = min(top + 1, maps.shape[1] - 1), min(left + 1, maps.shape[2] - 1)
    fy, fx = y - top, x - left
    upper = maps[:, top, left] * (1 - fx) + maps[:, top, right] * fx
    return upper * (1 - fy) + (maps[:, bottom, left] * (1 - fx) + maps[:, bottom, right] * fx) * fy


@pytest.mark.parametrize("ratio", [0, 1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_ps_roi_align_is_the_mean_of_bilinear_samples(dtype: torch.dtype, ratio: int) -> None:
    maps = random_maps(dtype)
    pooled = ps_roi_align(maps, ROIS, 3, SCALE, sampling_ratio=ratio)
    assert pooled.dtype == dtype
    tolerance = 2e-5 if dtype == torch.float32 else max(2 * torch.finfo(dtype).eps, 1e-12)  # rounding of coordinates
    rois = ROIS.double()
    torch.testing.assert_close(pooled.double(), sampled(maps, rois, 3, SCALE, ratio), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("k", [1, 2, 7])
def test_values_and_gradients_equal_torchvision(k: int, ratio: int) -> None:
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(2, 5 * k * k, 19, 23, generator=generator).requires_grad_()
    corner = torch.rand(60, 2, generator=generator) * 400 - 40
    rois = torch.cat(
        (torch.arange(60)[:, None] % 2, corner, corner + torch.rand(60, 2, generator=generator) * 200), dim=1
    )
    ours = ps_roi_align(maps, rois, k, SCALE, sampling_ratio=ratio)
    theirs = torchvision.ops.ps_roi_align(maps, rois, k, SCALE, ratio)
    torch.testing.assert_close(ours, theirs, rtol=FLOAT32_SUM, atol=FLOAT32_SUM)
    grad = torch.randn(ours.shape, generator=generator)
    gradients = [torch.autograd.grad(pooled, maps, grad)[0] for pooled in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=FLOAT32_SUM, atol=FLOAT32_SUM)


@pytest.mark.parametrize("ratio", [0, 2])
def test_gradients_are_correct(ratio: int) -> None:
    maps, rois = random_maps(torch.float64, k=2, classes=1).requires_grad_(), ROIS.double()

    def pool(maps: Tensor) -> Tensor:
        return ps_roi_align(maps, rois, 2, SCALE, sampling_ratio=ratio)

    assert torch.autograd.gradcheck(pool, maps)
    assert torch.autograd.gradgradcheck(pool, maps, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_layout_and_repetition_change_no_bit(dtype: torch.dtype) -> None:
    maps = random_maps(dtype).requires_grad_()
    nhwc = maps.detach().to(memory_format=torch.channels_last).requires_grad_()
    strided = maps.detach().repeat_interleave(2, dim=3)[..., ::2].requires_grad_()
    results = []
    for source in (maps, maps, nhwc, strided):
        pooled = ps_roi_align(source, ROIS, 3, SCALE, sampling_ratio=2)
        grad = torch.randn(pooled.shape[::-1], generator=torch.Generator().manual_seed(1)).to(dtype)
        results.append((pooled, torch.autograd.grad(pooled, source, grad.permute(3, 2, 1, 0))[0]))
    for pooled, gradient in results[1:]:
        assert torch.equal(pooled, results[0][0])
        assert torch.equal(gradient, results[0][1])


def test_a_constant_map_pools_to_the_constant() -> None:
    maps = torch.full((2, 36, 5, 6), 2.5)
    rois = ROIS[[0, 1, 4, 5, 6]]
    pooled = ps_roi_align(maps, rois, 3, SCALE, sampling_ratio=2)
    torch.testing.assert_close(pooled, torch.full((5, 4, 3, 3), 2.5), rtol=FLOAT32_SUM, atol=0)


def test_empty_rois_give_zero_under_adaptive_sampling() -> None:
    # torchvision divides 0 by 0 samples here.
    maps = random_maps().requires_grad_()
    pooled = ps_roi_align(maps, ROIS[[1, 4]], 3, SCALE)
    assert not pooled.any()
    assert not torch.autograd.grad(pooled.sum(), maps)[0].any()


def test_a_nan_reaches_only_bins_that_sample_it() -> None:
    maps = random_maps(k=1, classes=1)
    maps[0, 0, 3, 4] = math.nan
    near, far = torch.tensor([(0.0, 56, 48, 72, 64)]), torch.tensor([(0.0, 8, 8, 40, 40)])
    assert ps_roi_align(maps, near, 1, SCALE, sampling_ratio=2).isnan().all()
    assert not ps_roi_align(maps, far, 1, SCALE, sampling_ratio=2).isnan().any()
    # Samples two cells apart read nothing in between.
    maps[0, 0] = math.nan
    maps[0, 0, ::4, ::4] = 1.0
    apart = torch.tensor([(0.0, -24, -24, 104, 104)])
    assert ps_roi_align(maps, apart, 1, SCALE, sampling_ratio=2).isnan().any()


def test_rois_that_are_huge_or_not_finite_give_finite_values() -> None:
    maps = random_maps()
    rois = torch.tensor([(0, -1e9, -1e9, 1e9, 1e9), (0, 0, 0, math.inf, 9), (0, math.nan, 0, 9, 9)])
    for ratio in (0, 2):
        pooled = ps_roi_align(maps, rois, 3, SCALE, sampling_ratio=ratio)
        assert pooled.isfinite().all()
        assert not pooled[1:].any()


def test_empty_inputs_give_empty_results() -> None:
    for num_images, num_classes in ((2, 4), (0, 4), (2, 0)):
        maps = torch.randn(num_images, num_classes * 9, 5, 6, requires_grad=True)
        pooled = ps_roi_align(maps, torch.zeros(0, 5), 3, SCALE)
        assert pooled.shape == (0, num_classes, 3, 3)
        assert not torch.autograd.grad(pooled.sum(), maps)[0].any()
    assert ps_roi_align(torch.zeros(2, 0, 5, 6), ROIS, 3, SCALE).shape == (len(ROIS), 0, 3, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_autocast_does_not_change_dtypes(dtype: torch.dtype) -> None:
    maps = random_maps(dtype).requires_grad_()
    expected = ps_roi_align(maps, ROIS, 3, SCALE, sampling_ratio=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = ps_roi_align(maps, ROIS, 3, SCALE, sampling_ratio=2)
        assert pooled.dtype == dtype
        assert torch.autograd.grad(pooled.sum(), maps)[0].dtype == dtype
    assert torch.equal(pooled, expected), "coordinates are never cast down"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda maps, rois: (maps[0], rois, 3, 0), r"expected features \[N, C, H, W\]"),
        (lambda maps, rois: (maps, rois[:, 1:], 3, 0), r"expected rois \[R, 5\]"),
        (lambda maps, rois: (maps, rois - 1, 3, 0), r"image indices"),
        (lambda maps, rois: (maps, rois, (3, 2), 0), r"expected output_size as an int k"),
        (lambda maps, rois: (maps, rois, 4, 0), r"expected D \* 4 \* 4 channels"),
        (lambda maps, rois: (maps, rois, 3, -1), r"expected sampling_ratio of at least 0, got -1"),
    ],
)
def test_wrong_arguments_are_refused(change: Callable, message: str) -> None:
    maps, rois, k, ratio = change(random_maps(), ROIS)
    with pytest.raises(ValueError, match=message):
        ps_roi_align(maps, rois, k, SCALE, sampling_ratio=ratio)


# opcheck reads .grad of a tensor that is not a leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_the_operators_keep_the_dispatcher_contract() -> None:
    maps = random_maps(torch.float32).requires_grad_()
    grad = torch.randn(len(ROIS), 4, 3, 3, requires_grad=True)
    torch.library.opcheck(torch.ops.fast_rfcn.ps_roi_align.default, (maps, ROIS, 3, SCALE, 2))
    torch.library.opcheck(torch.ops.fast_rfcn.ps_roi_align_backward.default, (grad, ROIS, list(maps.shape), SCALE, 2))


def test_compiles_and_exports_for_any_number_of_rois() -> None:
    class Model(torch.nn.Module):
        def forward(self, maps: Tensor, rois: Tensor) -> Tensor:
            return ps_roi_align(maps, rois, 3, SCALE, sampling_ratio=2)

    model, maps = Model(), random_maps().requires_grad_()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    shapes = {"maps": {}, "rois": {0: torch.export.Dim("rois", min=0)}}
    exported = torch.export.export(model, (maps.detach(), ROIS), dynamic_shapes=shapes).module()
    for count in (9, 5, 3):
        expected = model(maps, ROIS[:count])
        (gradient,) = torch.autograd.grad(expected.sum(), maps)
        pooled = compiled(maps, ROIS[:count])
        assert torch.equal(pooled, expected)
        assert torch.equal(torch.autograd.grad(pooled.sum(), maps)[0], gradient)
        assert torch.equal(exported(maps.detach(), ROIS[:count]), expected)
