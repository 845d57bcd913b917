"""`ps_roi_pool` and `ps_roi_vote` against the published rule in plain loops, worked examples and their properties."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detector.ops import ps_roi_pool, ps_roi_vote
from detector.ops.boxes import to_rois

ROOT = Path(__file__).parents[2]
VECTORS = Path("shared/spec/op_vectors.json")
EXACT_IN_FLOAT32 = 4e-6  # relative: the order of a float32 sum
OPS = {"pool": ps_roi_pool, "vote": ps_roi_vote}
SCALE = 1 / 16

# Ordinary, inverted, outside on each side, a point, the last cell, the whole map, far more, halves to round.
ROIS = torch.tensor(
    [
        (0, 3.2, 11.7, 61.4, 80.1),
        (1, 64, 64, 32, 32),
        (1, -200, -200, -100, -90),
        (0, 500, 10, 600, 50),
        (1, 40, 40, 40, 40),
        (0, 95, 79, 95, 79),
        (1, 0, 0, 95, 79),
        (0, -1e6, -1e6, 1e6, 1e6),
        (0, 2.5, -2.5, 40.5, 50.5),
        (1, 16, 16, 63, 63),
    ],
    dtype=torch.float32,
)


def published(maps: Tensor, rois: Tensor, k: int, scale: float, reduction: str = "mean") -> Tensor:
    """Return psroi_pooling_layer.cu in loops [R, D, k, k] float64: edges in the dtype of the rois, sums in float64."""
    real = np.float64 if rois.dtype == torch.float64 else np.float32
    scale = real(scale)
    height, width = maps.shape[2:]
    out = np.zeros((len(rois), maps.shape[1] // (k * k), k, k))
    cells = maps.detach().double().numpy()

    def c_round(value: float) -> np.floating:
        return real(math.copysign(math.floor(abs(value) + 0.5), value))

    for r, (image, *box) in enumerate(rois.numpy()):
        x1, y1 = (c_round(float(v)) * scale for v in box[:2])
        x2, y2 = ((c_round(float(v)) + real(1)) * scale for v in box[2:])
        bin_w, bin_h = (max(real(v), real(0.1)) / real(k) for v in (x2 - x1, y2 - y1))
        for i in range(k):
            top, bottom = (min(max(int(v), 0), height) for v in edges(real, i, bin_h, y1))
            for j in range(k):
                left, right = (min(max(int(v), 0), width) for v in edges(real, j, bin_w, x1))
                if bottom <= top or right <= left:
                    continue
                for d in range(out.shape[1]):
                    part = cells[int(image), (d * k + i) * k + j, top:bottom, left:right]
                    out[r, d, i, j] = part.mean() if reduction == "mean" else part.max()
    return torch.from_numpy(out)


def edges(real: type, index: int, size: np.floating, start: np.floating) -> tuple[float, float]:
    return math.floor(real(index) * size + start), math.ceil(real(index + 1) * size + start)


def random_maps(dtype: torch.dtype = torch.float32, k: int = 3, classes: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, classes * k * k, 5, 6, generator=generator, dtype=torch.float64).to(dtype)


def vectors() -> dict:
    for parent in (ROOT.parent, ROOT.parent.parent):
        if (parent / VECTORS).exists():
            return json.loads((parent / VECTORS).read_text())
    pytest.skip(f"{VECTORS} is not beside the repository")


@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_values_follow_the_published_rule(dtype: torch.dtype, k: int, reduction: str) -> None:
    maps = random_maps(dtype, k)
    rois = ROIS.to(torch.float64 if dtype == torch.float64 else torch.float32)
    expected = published(maps, rois, k, SCALE, reduction)
    tolerance = EXACT_IN_FLOAT32 if dtype in (torch.float32, torch.float64) else torch.finfo(dtype).eps
    pooled = ps_roi_pool(maps, rois, k, SCALE, reduction=reduction)
    votes = ps_roi_vote(maps, rois, k, SCALE, reduction=reduction)
    assert pooled.dtype == votes.dtype == dtype
    assert pooled.is_contiguous()
    torch.testing.assert_close(pooled.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(votes.double(), expected.mean(dim=(2, 3)), rtol=tolerance, atol=tolerance)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([2, 5, 7, 11]), st.sampled_from(["mean", "max"]))
def test_random_rois_follow_the_published_rule(seed: int, k: int, reduction: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(1, 2 * k * k, 9, 13, generator=generator)
    rois = torch.cat((torch.zeros(8, 1), torch.rand(8, 4, generator=generator) * 300 - 50), dim=1)
    rois = torch.where(torch.rand(8, 5, generator=generator) < 0.2, rois.round(), rois)
    pooled = ps_roi_pool(maps, rois, k, SCALE, reduction=reduction)
    torch.testing.assert_close(
        pooled.double(), published(maps, rois, k, SCALE, reduction), rtol=EXACT_IN_FLOAT32, atol=EXACT_IN_FLOAT32
    )


def test_worked_examples_give_the_published_numbers() -> None:
    data = vectors()
    for case in (case for case in data["cases"] + data["gradients"] if case["op"] == "ps_roi_pool"):
        maps = torch.tensor(data["maps"][case["features"]], dtype=torch.float32)[None].requires_grad_()
        pooled = ps_roi_pool(
            maps, torch.tensor(case["rois"]).float(), case["output_size"], case["spatial_scale"], **case["options"]
        )
        result = pooled[0, 0] if case in data["cases"] else torch.autograd.grad(pooled.sum(), maps)[0][0]
        torch.testing.assert_close(result, torch.tensor(case["expected"]), rtol=0, atol=6e-5, msg=case["name"])


@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("op", OPS)
def test_gradients_are_correct(op: str, reduction: str) -> None:
    maps = random_maps(torch.float64, k=2, classes=1).requires_grad_()
    rois = ROIS.double()

    def pool(maps: Tensor) -> Tensor:
        return OPS[op](maps, rois, 2, SCALE, reduction=reduction)

    assert torch.autograd.gradcheck(pool, maps)
    assert torch.autograd.gradgradcheck(pool, maps, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("op", OPS)
def test_the_gradient_equals_float64_and_repeats(op: str, reduction: str, dtype: torch.dtype) -> None:
    # Rois at multiples of 1/4 have the same bins in float32 and float64.
    rois = torch.cat((ROIS[:, :1], (ROIS[:, 1:] * 4).round() / 4), dim=1)
    maps = random_maps(dtype).requires_grad_()
    precise = maps.detach().double().requires_grad_()
    pooled = OPS[op](maps, rois, 3, SCALE, reduction=reduction)
    expected = OPS[op](precise, rois, 3, SCALE, reduction=reduction)
    grad = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    first, again = (torch.autograd.grad(pooled, maps, grad, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again)
    (reference,) = torch.autograd.grad(expected, precise, grad.double())
    tolerance = max(2 * torch.finfo(dtype).eps, EXACT_IN_FLOAT32)
    torch.testing.assert_close(first.double(), reference, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("classes", [2, 4, 8, 9, 32, 33, 81])
def test_a_class_gets_the_same_bits_alone_and_among_others(
    classes: int, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    maps = random_maps(dtype, classes=classes).to(memory_format=layout).requires_grad_()
    rois = ROIS.to(torch.float64 if dtype == torch.float64 else torch.float32)
    for op in OPS.values():
        for reduction in ("mean", "max"):
            together = op(maps, rois, 3, SCALE, reduction=reduction)
            alone = torch.cat([op(part, rois, 3, SCALE, reduction=reduction) for part in maps.split(9, dim=1)], dim=1)
            assert torch.equal(together, alone)
            grad = torch.randn(together.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
            assert torch.equal(*(torch.autograd.grad(pooled, maps, grad)[0] for pooled in (together, alone)))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("reduction", ["mean", "max"])
def test_layout_of_maps_and_gradients_changes_no_bit(op: str, reduction: str) -> None:
    maps = random_maps().requires_grad_()
    nhwc = maps.detach().to(memory_format=torch.channels_last).requires_grad_()
    strided = maps.detach().repeat_interleave(2, dim=3)[..., ::2].requires_grad_()
    assert not strided.is_contiguous()
    results = []
    for source in (maps, nhwc, strided):
        pooled = OPS[op](source, ROIS, 3, SCALE, reduction=reduction)
        grad = torch.randn(pooled.shape[::-1], generator=torch.Generator().manual_seed(1)).permute(
            *reversed(range(pooled.dim()))
        )
        results.append((pooled, torch.autograd.grad(pooled, source, grad)[0]))
    for pooled, gradient in results[1:]:
        assert torch.equal(pooled, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("reduction", ["mean", "max"])
def test_only_the_channels_and_cells_of_the_bins_are_read(reduction: str) -> None:
    maps = random_maps(k=2, classes=1)
    roi = torch.tensor([(0.0, 0, 0, 31, 31)])  # cells 0..1 on both axes
    pooled = ps_roi_pool(maps, roi, 2, SCALE, reduction=reduction)
    poisoned = torch.full_like(maps, math.nan)
    for channel, (y, x) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        poisoned[0, channel, y, x] = maps[0, channel, y, x]
    assert torch.equal(ps_roi_pool(poisoned, roi, 2, SCALE, reduction=reduction), pooled)


@pytest.mark.parametrize("reduction", ["mean", "max"])
def test_nan_in_a_bin_propagates_and_gets_the_gradient(reduction: str) -> None:
    maps = random_maps(k=1, classes=3)
    maps[0, 1, 2, 3] = math.nan
    maps.requires_grad_()
    roi = torch.tensor([(0.0, 0, 0, 95, 79)])
    pooled = ps_roi_pool(maps, roi, 1, SCALE, reduction=reduction)
    assert pooled.isnan().flatten().tolist() == [False, True, False]
    assert ps_roi_vote(maps, roi, 1, SCALE, reduction=reduction).isnan().flatten().tolist() == [False, True, False]
    if reduction == "max":
        pooled.sum().backward()
        assert maps.grad is not None
        assert maps.grad[0, 1].nonzero().tolist() == [[2, 3]]


def test_infinite_maxima_and_ties() -> None:
    maps = torch.full((1, 1, 4, 4), -math.inf).requires_grad_()
    pooled = ps_roi_pool(maps, torch.tensor([(0.0, 16, 16, 47, 47)]), 1, SCALE, reduction="max")
    assert pooled.item() == -math.inf
    (gradient,) = torch.autograd.grad(pooled, maps, torch.ones_like(pooled))
    assert gradient[0, 0].nonzero().tolist() == [[1, 1]]  # the first of equal maxima


def test_rois_that_are_not_finite_are_empty() -> None:
    rois = torch.tensor([(0.0, math.nan, 0, 50, 50), (0.0, 0, 0, math.inf, 50), (0.0, 0, -math.inf, 50, 50)])
    maps = random_maps().requires_grad_()
    for reduction in ("mean", "max"):
        pooled = ps_roi_pool(maps, rois, 3, SCALE, reduction=reduction)
        assert not pooled.any()
        assert not torch.autograd.grad(pooled.sum(), maps)[0].any()


@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("op", OPS)
def test_empty_inputs_give_empty_results(op: str, reduction: str) -> None:
    tail = (3, 3) if op == "pool" else ()
    for num_images, num_classes in ((2, 4), (0, 4), (2, 0)):
        maps = torch.randn(num_images, num_classes * 9, 5, 6, requires_grad=True)
        pooled = OPS[op](maps, torch.zeros(0, 5), 3, SCALE, reduction=reduction)
        assert pooled.shape == (0, num_classes, *tail)
        (gradient,) = torch.autograd.grad(pooled.sum(), maps)
        assert gradient.shape == maps.shape
        assert not gradient.any()
    assert OPS[op](torch.zeros(2, 0, 5, 6), ROIS, 3, SCALE, reduction=reduction).shape == (len(ROIS), 0, *tail)


def test_a_list_of_boxes_and_a_pair_of_bins_are_accepted() -> None:
    maps, parts = random_maps(), [ROIS[:3, 1:], ROIS[3:, 1:]]
    assert torch.equal(ps_roi_pool(maps, parts, (3, 3), SCALE), ps_roi_pool(maps, to_rois(parts), 3, SCALE))


def test_rois_may_have_another_dtype() -> None:
    maps, rois = random_maps(torch.bfloat16), ROIS[[1, 4, 6, 9]]
    expected = ps_roi_pool(maps, rois, 3, SCALE)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        assert torch.equal(ps_roi_pool(maps, rois.to(dtype), 3, SCALE), expected)


@pytest.mark.parametrize("op", OPS)
def test_autocast_does_not_change_dtypes(op: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            maps = random_maps(dtype).requires_grad_()
            pooled = OPS[op](maps, ROIS, 3, SCALE)
            assert pooled.dtype == dtype
            assert torch.autograd.grad(pooled.sum(), maps)[0].dtype == dtype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda maps, rois: (maps[0], rois, 3), r"expected features \[N, C, H, W\].*got float32 \[36, 5, 6\]"),
        (lambda maps, rois: (maps.long(), rois, 3), r"got int64"),
        (lambda maps, rois: (maps, rois[:, 1:], 3), r"expected rois \[R, 5\].*got float32 \[10, 4\]"),
        (lambda maps, rois: (maps, rois + 1, 3), r"image indices.*0\.\.1 for 2 images"),
        (lambda maps, rois: (maps, rois, (3, 2)), r"expected output_size as an int k"),
        (lambda maps, rois: (maps, rois, 0), r"expected output_size"),
        (lambda maps, rois: (maps, rois, 5), r"expected D \* 5 \* 5 channels of score maps, got 36"),
        (lambda maps, rois: (maps, [rois[:, 1:]], 3), r"one tensor of boxes for each of 2 images, got 1"),
    ],
)
@pytest.mark.parametrize("op", OPS)
def test_wrong_arguments_are_refused(op: str, change: Callable, message: str) -> None:
    maps, rois, k = change(random_maps(), ROIS)
    with pytest.raises(ValueError, match=message):
        OPS[op](maps, rois, k, SCALE)


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match="expected reduction to be one of"):
        ps_roi_pool(random_maps(), ROIS, 3, SCALE, reduction="sum")


# opcheck reads .grad of a tensor that is not a leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_the_operators_keep_the_dispatcher_contract() -> None:
    ops = torch.ops.fast_rfcn
    maps = random_maps().requires_grad_()
    size = list(maps.shape)
    grad = torch.randn(len(ROIS), 4, 3, 3, requires_grad=True)
    torch.library.opcheck(ops.ps_roi_pool.default, (maps, ROIS, 3, SCALE))
    torch.library.opcheck(ops.ps_roi_pool_backward.default, (grad, ROIS, size, SCALE))
    torch.library.opcheck(ops.ps_roi_vote.default, (maps, ROIS, 3, SCALE))
    for with_argmax in (True, False):
        torch.library.opcheck(ops.ps_roi_pool_max.default, (maps, ROIS, 3, SCALE, with_argmax))
        torch.library.opcheck(ops.ps_roi_vote_max.default, (maps, ROIS, 3, SCALE, with_argmax))


@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("op", OPS)
def test_compiles_once_for_any_number_of_rois(op: str, reduction: str) -> None:
    num_graphs = 0

    def backend(graph: torch.fx.GraphModule, _: list) -> Callable:
        nonlocal num_graphs
        num_graphs += 1
        return graph.forward

    @torch.compile(fullgraph=True, backend=backend)
    def compiled(maps: Tensor, rois: Tensor) -> Tensor:
        return OPS[op](maps, rois, 3, SCALE, reduction=reduction)

    maps = random_maps().requires_grad_()
    for count in (10, 7, 5, 3, 2):
        expected = OPS[op](maps, ROIS[:count], 3, SCALE, reduction=reduction)
        assert torch.equal(compiled(maps, ROIS[:count]), expected)
    assert num_graphs <= 2, "one graph for the first number of RoIs, and one for all others"


@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("op", OPS)
def test_exports_with_any_number_of_rois(op: str, reduction: str) -> None:
    class Model(torch.nn.Module):
        def forward(self, maps: Tensor, rois: Tensor) -> Tensor:
            return OPS[op](maps, rois, 3, SCALE, reduction=reduction)

    maps = random_maps()
    shapes = {"maps": {}, "rois": {0: torch.export.Dim("rois", min=0)}}
    program = torch.export.export(Model(), (maps, ROIS), dynamic_shapes=shapes).module()
    for rois in (ROIS, ROIS[:3]):
        assert torch.equal(program(maps, rois), OPS[op](maps, rois, 3, SCALE, reduction=reduction))
