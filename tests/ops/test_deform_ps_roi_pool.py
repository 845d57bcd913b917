"""`deform_ps_roi_pool` against bilinear sampling in plain loops, numbers by hand, and its properties."""

import importlib
import math
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal

import pytest
import torch
from torch import Tensor

from detector.ops import deform_ps_roi_pool, ps_roi_align

SCALE = 1 / 16
FLOAT32_SUM = 4e-6  # relative: the order of a float32 sum
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]

# Ordinary, inverted, outside on each side, a point, the last cell, the whole map, far more than the map.
ROIS = torch.tensor(
    [
        (0, 3.2, 11.7, 61.4, 80.1),
        (1, 64, 64, 32, 32),
        (1, -200, -200, -100, -90),
        (0, 500, 10, 600, 50),
        (1, 40, 40, 40, 40),
        (0, 95, 79, 96, 80),
        (1, 0, 0, 95, 79),
        (0, -900, -900, 900, 900),
        (1, -24.5, 16, 40, 64.5),
    ],
    dtype=torch.float32,
)


def random_maps(dtype: torch.dtype = torch.float32, k: int = 3, classes: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, classes * k * k, 5, 6, generator=generator, dtype=torch.float64).to(dtype)


def random_offsets(groups: int, dtype: torch.dtype = torch.float32, k: int = 3, count: int = len(ROIS)) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 2 * groups, k, k, generator=generator, dtype=torch.float64).to(dtype)


def rounded(value: float) -> int:
    return int(Decimal(value).quantize(Decimal(1), ROUND_HALF_UP))  # half away from zero


def sampled(maps: Tensor, rois: Tensor, offsets: Tensor, k: int, gamma: float, n: int) -> Tensor:
    """Return the means of bilinear samples [R, D, k, k], one at a time in float64."""
    classes, (height, width) = maps.shape[1] // (k * k), maps.shape[2:]
    out = torch.zeros(len(rois), classes, k, k, dtype=torch.float64)
    per_group = classes // (offsets.shape[1] // 2)
    for r, (image, *box) in enumerate(rois.double().tolist()):
        x1, y1 = (rounded(value) * SCALE - 0.5 for value in box[:2])
        x2, y2 = ((rounded(value) + 1) * SCALE - 0.5 for value in box[2:])
        across, down = max(x2 - x1, 0.1), max(y2 - y1, 0.1)
        for d in range(classes):
            for i in range(k):
                for j in range(k):
                    right, below = offsets[r].double().unflatten(0, (-1, 2))[d // per_group, :, i, j].tolist()
                    values = []
                    for m in range(n):
                        for p in range(n):
                            x = x1 + (j + p / n) * across / k + gamma * right * across
                            y = y1 + (i + m / n) * down / k + gamma * below * down
                            if -0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5:
                                values.append(bilinear(maps[int(image), (d * k + i) * k + j].double(), y, x))
                    out[r, d, i, j] = sum(values) / max(len(values), 1)
    return out


def bilinear(plane: Tensor, y: float, x: float) -> float:
    y, x = (min(max(place, 0), size - 1) for place, size in zip((y, x), plane.shape, strict=True))
    top, left = int(y), int(x)
    bottom, right = min(top + 1, plane.shape[0] - 1), min(left + 1, plane.shape[1] - 1)
    fy, fx = y - top, x - left
    upper = plane[top, left] * (1 - fx) + plane[top, right] * fx
    return float(upper * (1 - fy) + (plane[bottom, left] * (1 - fx) + plane[bottom, right] * fx) * fy)


@pytest.mark.parametrize(("groups", "n"), [(1, 4), (2, 1), (4, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bin_is_the_mean_of_its_moved_bilinear_samples(dtype: torch.dtype, groups: int, n: int) -> None:
    maps, offsets = random_maps(dtype), random_offsets(groups, dtype)
    pooled = deform_ps_roi_pool(maps, ROIS, offsets, 3, SCALE, offset_scale=0.2, sampling_ratio=n)
    assert pooled.dtype == dtype
    tolerance = 1e-4 if dtype == torch.float32 else max(2 * torch.finfo(dtype).eps, 1e-12)  # rounding of coordinates
    expected = sampled(maps, ROIS, offsets, 3, 0.2, n)
    torch.testing.assert_close(pooled.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("box", "offset", "value", "slopes"),
    [
        # 2 x 2 cells from (0.5, 0.5); samples at 0.5 and 1.5 along each axis: 1 along both.
        ((16, 16, 47, 47), (0, 0), 11, (0.2, 2)),
        ((16.4, 15.5, 46.5, 47.4), (0, 0), 11, (0.2, 2)),  # rounded to the same corners
        ((16, 16, 47, 47), (1, -2), 7.2, (0.2, 2)),  # 0.2 cells to the right, 0.4 up
        # Columns -1.5 and -0.5: only the second is on the map and moves to 0; rows at 0 and 0.5.
        ((-16, 0, 15, 31), (0, 0), 2.5, (0, 1)),
        ((-16, 0, 15, 31), (10, 0), 3.5, (0.2, 1)),  # 2 cells to the right: 0.5 and 1.5
        ((-100, 0, -60, 31), (0, 0), 0, (0, 0)),  # outside
        ((-100, 0, -69, 31), (40, 0), 4.25, (0.2, 1)),  # 8 cells to the right: 1.25 and 2.25
    ],
)
def test_numbers_by_hand(
    box: tuple[float, ...], offset: tuple[float, float], value: float, slopes: tuple[float, float]
) -> None:
    y, x = torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing="ij")
    ramp = (10 * y + x).view(1, 1, 5, 6)
    offsets = torch.tensor(offset, dtype=torch.float32).view(1, 2, 1, 1).requires_grad_()
    rois = torch.tensor([(0, *box)], dtype=torch.float32)
    pooled = deform_ps_roi_pool(ramp, rois, offsets, 1, SCALE, sampling_ratio=2)
    assert pooled.item() == pytest.approx(value, abs=1e-5)
    gradient = torch.autograd.grad(pooled.sum(), offsets)[0].flatten().tolist()
    assert gradient == pytest.approx(slopes, abs=1e-5)


def test_offsets_of_zero_pool_the_same_samples_as_ps_roi_align() -> None:
    """The samples are at i / n of a bin, those of `ps_roi_align` at (i + 0.5) / n: half a step further."""
    k, n, maps = 3, 4, random_maps()
    rois = torch.tensor([(0, 3.0, 11, 60, 78), (1, 0, 0, 95, 79), (0, 17, 33, 20, 34), (1, 40, 8, 90, 70)])
    align = rois.clone()
    align[:, 3:] += 1
    half_step = (align[:, 3:] - align[:, 1:3]) / (2 * k * n)
    align[:, 1:] -= half_step.repeat(1, 2)
    expected = ps_roi_align(maps, align, k, SCALE, sampling_ratio=n)
    for offsets in (None, torch.zeros(4, 2, k, k), torch.zeros(4, 8, k, k)):
        pooled = deform_ps_roi_pool(maps, rois, offsets, k, SCALE, sampling_ratio=n)
        torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-5)


def test_an_offset_moves_a_bin_as_far_as_a_moved_roi() -> None:
    maps = random_maps(torch.float64)
    rois = torch.tensor([(0, 16.0, 8, 63, 55)])  # 48 x 48 pixels
    offsets = torch.tensor([10 / 48, -6 / 48], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 3, 3)
    moved = torch.tensor([(0, 26.0, 2, 73, 49)])
    pooled = deform_ps_roi_pool(maps, rois, offsets, 3, SCALE, offset_scale=1.0)
    torch.testing.assert_close(pooled, deform_ps_roi_pool(maps, moved, None, 3, SCALE))


def test_each_group_of_classes_has_its_own_offsets() -> None:
    maps, offsets = random_maps(), random_offsets(2)
    pooled = deform_ps_roi_pool(maps, ROIS, offsets, 3, SCALE)
    for group in (0, 1):
        own = deform_ps_roi_pool(
            maps[:, 18 * group : 18 * (group + 1)], ROIS, offsets[:, 2 * group : 2 * group + 2], 3, SCALE
        )
        assert torch.equal(pooled[:, 2 * group : 2 * group + 2], own)


@pytest.mark.parametrize("groups", [None, 1, 2])
def test_gradients_are_correct(groups: int | None) -> None:
    maps, rois = random_maps(torch.float64, k=2, classes=2).requires_grad_(), ROIS.double()
    offsets = None if groups is None else random_offsets(groups, torch.float64, k=2).requires_grad_()
    inputs = (maps,) if offsets is None else (maps, offsets)

    def pool(maps: Tensor, offsets: Tensor | None = None) -> Tensor:
        return deform_ps_roi_pool(maps, rois, offsets, 2, SCALE, sampling_ratio=3)

    assert torch.autograd.gradcheck(pool, inputs)
    assert torch.autograd.gradgradcheck(pool, inputs, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 4])
def test_layout_and_repetition_change_no_bit(dtype: torch.dtype, groups: int) -> None:
    maps = random_maps(dtype).requires_grad_()
    offsets = random_offsets(groups, dtype).requires_grad_()
    nhwc = maps.detach().to(memory_format=torch.channels_last).requires_grad_()
    strided = maps.detach().repeat_interleave(2, dim=3)[..., ::2].requires_grad_()
    results = []
    for source in (maps, maps, nhwc, strided):
        pooled = deform_ps_roi_pool(source, ROIS, offsets, 3, SCALE)
        grad = torch.randn(pooled.shape[::-1], generator=torch.Generator().manual_seed(1)).to(dtype)
        results.append((pooled, *torch.autograd.grad(pooled, (source, offsets), grad.permute(3, 2, 1, 0))))
    assert results[0][2].dtype == dtype
    for other in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(other, results[0], strict=True))


def test_threads_change_no_bit() -> None:
    maps, offsets = random_maps().requires_grad_(), random_offsets(4, count=180).requires_grad_()
    pooled = deform_ps_roi_pool(maps, ROIS.repeat(20, 1), offsets, 3, SCALE)
    grad = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1))
    first = torch.autograd.grad(pooled, (maps, offsets), grad, retain_graph=True)
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        again = torch.autograd.grad(pooled, (maps, offsets), grad, retain_graph=True)
        assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    torch.set_num_threads(before)


def test_a_constant_map_pools_to_the_constant_if_a_sample_is_on_the_map() -> None:
    maps = torch.full((2, 36, 5, 6), 2.5)
    pooled = deform_ps_roi_pool(maps, ROIS[[0, 1, 4, 5, 6]], random_offsets(4, count=5) * 0.1, 3, SCALE)
    assert ((pooled - 2.5).abs() < 2.5 * FLOAT32_SUM).logical_or(pooled == 0).all()
    assert (pooled[[0, 1, 2]] != 0).all()


def test_a_nan_reaches_only_bins_that_sample_it() -> None:
    maps = random_maps(k=1, classes=1)
    maps[0, 0, 3, 4] = math.nan
    rois = torch.tensor([(0.0, 8, 8, 39, 39)])
    there = torch.tensor([(48 - 8) / 32, (32 - 8) / 32]).view(1, 2, 1, 1)
    assert not deform_ps_roi_pool(maps, rois, None, 1, SCALE).isnan().any()
    assert deform_ps_roi_pool(maps, rois, there, 1, SCALE, offset_scale=1.0).isnan().all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_offset_that_is_not_finite_gives_nan_in_its_bin_only(value: float) -> None:
    maps, offsets = random_maps().requires_grad_(), torch.zeros(len(ROIS), 4, 3, 3)
    offsets[0, 3, 1, 2] = value  # down, second group
    pooled = deform_ps_roi_pool(maps, ROIS, offsets.requires_grad_(), 3, SCALE)
    expected = torch.zeros_like(pooled, dtype=torch.bool)
    expected[0, 2:, 1, 2] = True
    assert torch.equal(pooled.isnan(), expected)
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(pooled.nansum(), (maps, offsets)))


def test_rois_that_are_huge_or_not_finite_give_finite_values() -> None:
    maps = random_maps().requires_grad_()
    rois = torch.tensor([(0, -1e9, -1e9, 1e9, 1e9), (0, 0, 0, math.inf, 9), (0, math.nan, 0, 9, 9)])
    offsets = random_offsets(4, count=3).requires_grad_()
    pooled = deform_ps_roi_pool(maps, rois, offsets, 3, SCALE)
    assert pooled.isfinite().all()
    assert not pooled[1:].any()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(pooled.sum(), (maps, offsets)))


def test_empty_inputs_give_empty_results() -> None:
    for num_images, num_classes in ((2, 4), (0, 4), (2, 0)):
        maps = torch.randn(num_images, num_classes * 9, 5, 6, requires_grad=True)
        offsets = torch.zeros(0, 2, 3, 3, requires_grad=True)
        pooled = deform_ps_roi_pool(maps, torch.zeros(0, 5), offsets, 3, SCALE)
        assert pooled.shape == (0, num_classes, 3, 3)
        to_maps, to_offsets = torch.autograd.grad(pooled.sum(), (maps, offsets))
        assert not to_maps.any()
        assert to_offsets.shape == offsets.shape
    offsets = torch.ones(len(ROIS), 2, 3, 3, requires_grad=True)
    for shape in ((2, 0, 5, 6), (2, 36, 0, 6)):
        maps = torch.zeros(shape, requires_grad=True)
        pooled = deform_ps_roi_pool(maps, ROIS, offsets, 3, SCALE)
        assert pooled.shape == (len(ROIS), shape[1] // 9, 3, 3)
        assert not pooled.any()
        to_maps, to_offsets = torch.autograd.grad(pooled.sum(), (maps, offsets))
        assert to_maps.shape == shape
        assert not to_offsets.any()
    assert deform_ps_roi_pool(torch.zeros(0, 36, 5, 6), [], torch.zeros(0, 2, 3, 3), 3, SCALE).shape == (0, 4, 3, 3)
    kernel = importlib.import_module("detector.ops.deform_ps_roi_pool")._reference
    pooled = kernel(torch.zeros(0, 36, 5, 6), ROIS, None, 3, SCALE, 0.1, 4)  # a direct call: RoIs of no image
    assert torch.equal(pooled, torch.zeros(len(ROIS), 4, 3, 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_autocast_does_not_change_dtypes(dtype: torch.dtype) -> None:
    maps, offsets = random_maps(dtype).requires_grad_(), random_offsets(4, dtype).requires_grad_()
    expected = deform_ps_roi_pool(maps, ROIS, offsets, 3, SCALE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = deform_ps_roi_pool(maps, ROIS, offsets, 3, SCALE)
        assert pooled.dtype == dtype
        assert all(grad.dtype == dtype for grad in torch.autograd.grad(pooled.sum(), (maps, offsets)))
    assert torch.equal(pooled, expected), "coordinates are never cast down"


def test_a_list_of_boxes_gives_the_same_as_rois() -> None:
    order = ROIS[:, 0].argsort(stable=True)
    listed = [ROIS[ROIS[:, 0] == image][:, 1:] for image in (0, 1)]
    maps, offsets = random_maps(), random_offsets(4)
    expected = deform_ps_roi_pool(maps, ROIS[order], offsets, 3, SCALE)
    assert torch.equal(deform_ps_roi_pool(maps, listed, offsets, 3, SCALE), expected)


OFFSETS = random_offsets(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda maps: (maps[0], ROIS, OFFSETS, 3, 4), r"expected features \[N, C, H, W\]"),
        (lambda maps: (maps, ROIS[:, 1:], OFFSETS, 3, 4), r"expected rois \[R, 5\]"),
        (lambda maps: (maps, ROIS - 1, OFFSETS, 3, 4), r"image indices"),
        (lambda maps: (maps, ROIS, OFFSETS, (3, 2), 4), r"expected output_size as an int k"),
        (lambda maps: (maps, ROIS, OFFSETS, 4, 4), r"expected D \* 4 \* 4 channels"),
        (lambda maps: (maps, ROIS, OFFSETS, 3, 0), r"expected sampling_ratio of at least 1, got 0"),
        (lambda maps: (maps, ROIS, OFFSETS[:5], 3, 4), r"expected offsets \[9, 2 \* G, 3, 3\] .*got float32 \[5, 4,"),
        (lambda maps: (maps, ROIS, OFFSETS[..., :2], 3, 4), r"got float32 \[9, 4, 3, 2\]"),
        (lambda maps: (maps, ROIS, OFFSETS[:, :3], 3, 4), r"got float32 \[9, 3, 3, 3\]"),
        (lambda maps: (maps, ROIS, OFFSETS[:, :0], 3, 4), r"got float32 \[9, 0, 3, 3\]"),
        (lambda maps: (maps, ROIS, random_offsets(3), 3, 4), r"G divides the 4 classes"),
        (lambda maps: (maps, ROIS, OFFSETS.long(), 3, 4), r"of a floating dtype.*got int64"),
        (
            lambda maps: (maps, ROIS, OFFSETS.to("meta"), 3, 4),
            r"offsets on the device of the score maps, cpu, got meta",
        ),
    ],
)
def test_wrong_arguments_are_refused(change: Callable, message: str) -> None:
    maps, rois, offsets, k, ratio = change(random_maps())
    with pytest.raises(ValueError, match=message):
        deform_ps_roi_pool(maps, rois, offsets, k, SCALE, sampling_ratio=ratio)


# opcheck reads .grad of a tensor that is not a leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("groups", [None, 2])
def test_the_operators_keep_the_dispatcher_contract(groups: int | None) -> None:
    maps = random_maps(torch.float32).requires_grad_()
    offsets = None if groups is None else random_offsets(groups).requires_grad_()
    grad = torch.randn(len(ROIS), 4, 3, 3, requires_grad=True)
    library, options = torch.ops.fast_rfcn, (SCALE, 0.1, 2)
    torch.library.opcheck(library.deform_ps_roi_pool.default, (maps, ROIS, offsets, 3, *options))
    torch.library.opcheck(
        library.deform_ps_roi_pool_backward.default, (grad, ROIS, offsets, list(maps.shape), *options)
    )
    if offsets is not None:
        torch.library.opcheck(library.deform_ps_roi_pool_offset_grad.default, (grad, maps, ROIS, offsets, *options))


def test_compiles_and_exports_for_any_number_of_rois() -> None:
    class Model(torch.nn.Module):
        def forward(self, maps: Tensor, rois: Tensor, offsets: Tensor) -> Tensor:
            return deform_ps_roi_pool(maps, rois, offsets, 3, SCALE)

    model, maps, offsets = Model(), random_maps().requires_grad_(), random_offsets(4)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    rois = torch.export.Dim("rois", min=0)
    shapes = {"maps": {}, "rois": {0: rois}, "offsets": {0: rois}}
    exported = torch.export.export(model, (maps.detach(), ROIS, offsets), dynamic_shapes=shapes).module()
    for count in (9, 5, 3):
        part = offsets[:count].clone().requires_grad_()
        expected = model(maps, ROIS[:count], part)
        gradients = torch.autograd.grad(expected.sum(), (maps, part))
        pooled = compiled(maps, ROIS[:count], part)
        assert torch.equal(pooled, expected)
        for pair in zip(torch.autograd.grad(pooled.sum(), (maps, part)), gradients, strict=True):
            assert torch.equal(*pair)
        assert torch.equal(exported(maps.detach(), ROIS[:count], part.detach()), expected)
