"""Every operator of the dispatcher, on every device, against its PyTorch kernel on the CPU with the same inputs."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from detector import ops

CUDA = torch.cuda.is_available()
SCALE, BINS = 1 / 16, 3
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Relative to the largest value: sums differ in their order, half precision in the last digit.
TOLERANCE = {torch.float32: 4e-6, torch.float64: 1e-12, torch.float16: 1e-3, torch.bfloat16: 8e-3}
MAPS = {"slab": (2, 18, 23, 37), "direct": (1, 9, 190, 170), "tiny": (3, 9, 1, 2)}  # "slab" fits shared memory
NAN, INFINITE = (torch.nan,), (torch.nan, torch.inf, -torch.inf)
ALIGN = {"adaptive": (0, True, False), "two": (2, True, False), "legacy inner": (3, False, True)}

REFERENCES = {
    "roi_pool": ("roi_pool", "_reference"),
    "roi_pool_scatter": ("roi_pool", "_scatter_reference"),
    "roi_pool_gather": ("roi_pool", "_gather_reference"),
    "roi_align": ("roi_align", "_mean_reference"),
    "roi_align_backward": ("roi_align", "_mean_grad_reference"),
    "roi_align_max": ("roi_align", "_max_reference"),
    "roi_align_max_scatter": ("roi_align", "_max_scatter_reference"),
    "roi_align_max_gather": ("roi_align", "_max_gather_reference"),
    "ps_roi_pool": ("ps_roi_pool", "_pool_reference"),
    "ps_roi_pool_max": ("ps_roi_pool", "_max_reference"),
    "ps_roi_pool_backward": ("ps_roi_pool", "_backward_reference"),
    "ps_roi_vote": ("ps_roi_pool", "_vote_reference"),
    "ps_roi_vote_max": ("ps_roi_pool", "_vote_max_reference"),
    "ps_roi_align": ("ps_roi_align", "_reference"),
    "ps_roi_align_backward": ("ps_roi_align", "_backward_reference"),
    "deform_ps_roi_pool": ("deform_ps_roi_pool", "_reference"),
    "deform_ps_roi_pool_backward": ("deform_ps_roi_pool", "_backward_reference"),
    "deform_ps_roi_pool_offset_grad": ("deform_ps_roi_pool", "_offset_gradient"),
    "nms": ("nms", "_reference"),
}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not CUDA:
        pytest.skip("no CUDA device here")
    return torch.device(request.param)


def random_rois(count: int, images: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """Return RoIs in and across the map. Some are inverted, outside, not finite, or have no image."""
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 4, generator=generator) * 1.4 - 0.2
    corners[:, :2], corners[:, 2:] = corners[:, :2].minimum(corners[:, 2:]), corners[:, :2].maximum(corners[:, 2:])
    corners = corners * (torch.tensor([width, height, width, height]) / SCALE)
    corners[::5] = (corners[::5] / 8).round() * 8
    corners[::7] = corners[::7, [2, 3, 0, 1]]
    corners[1], corners[2], corners[3] = -900, torch.tensor([0.0, 0.0, 1e9, 1e9]), torch.nan
    corners[4, 2] = torch.inf
    image = torch.randint(images, (count, 1), generator=generator).to(corners.dtype)
    image[6], image[8] = images, -1
    return torch.cat((image, corners), dim=1).to(dtype)


def operators(features: Tensor, rois: Tensor) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield names and arguments of all RoI operators, on the CPU."""
    size, generator = list(features.shape), torch.Generator().manual_seed(1)

    def grad(channels: int, height: int, width: int) -> Tensor:
        return torch.randn(len(rois), channels, height, width, generator=generator).to(features.dtype)

    library, classes = torch.ops.fast_rfcn, size[1] // BINS**2
    for rule in ("caffe", "floor", "split", "outer"):
        for with_argmax in (True, False):
            yield "roi_pool", (features, rois, 7, 5, SCALE, rule, with_argmax)
    argmax = library.roi_pool.default(features, rois, 7, 5, SCALE, "caffe", True)[1]
    yield "roi_pool_scatter", (grad(size[1], 7, 5), rois, argmax, size)
    yield "roi_pool_gather", (features, rois, argmax)
    for options in ALIGN.values():
        # An adaptive RoI that extends to 1e9 or further has too many samples for the PyTorch kernel's memory.
        few = rois.clone()
        if options[0] == 0:
            few[2], few[4] = 0, 0
        yield "roi_align", (features, few, 7, 5, SCALE, *options)
        yield "roi_align_backward", (grad(size[1], 7, 5), few, size, SCALE, *options)
        yield "roi_align_max", (features, few, 4, 5, SCALE, *options)
        argmax = library.roi_align_max.default(features, few, 4, 5, SCALE, *options)[1]
        yield "roi_align_max_scatter", (grad(size[1], 4, 5), few, argmax, size, SCALE, *options)
        yield "roi_align_max_gather", (features, few, argmax, SCALE, *options)
    yield "ps_roi_pool", (features, rois, BINS, SCALE)
    yield "ps_roi_pool_backward", (grad(classes, BINS, BINS), rois, size, SCALE)
    yield "ps_roi_pool_backward", (grad(classes, 1, 1).expand(-1, -1, BINS, BINS), rois, size, SCALE)
    yield "ps_roi_vote", (features, rois, BINS, SCALE)
    for with_argmax in (True, False):
        yield "ps_roi_pool_max", (features, rois, BINS, SCALE, with_argmax)
        yield "ps_roi_vote_max", (features, rois, BINS, SCALE, with_argmax)
    for ratio in (0, 2):
        yield "ps_roi_align", (features, rois, BINS, SCALE, ratio)
        yield "ps_roi_align_backward", (grad(classes, BINS, BINS), rois, size, SCALE, ratio)
    for groups in {1, classes}:
        offsets = torch.randn(len(rois), 2 * groups, BINS, BINS, generator=generator).to(rois.dtype)
        options, given = (SCALE, 0.2, 4), grad(classes, BINS, BINS)
        for moved_by in (None, offsets):
            yield "deform_ps_roi_pool", (features, rois, moved_by, BINS, *options)
            yield "deform_ps_roi_pool_backward", (given, rois, moved_by, size, *options)
        yield "deform_ps_roi_pool_offset_grad", (given, features, rois, offsets, *options)


def reference_of(name: str) -> Callable[..., Any]:
    module, function = REFERENCES[name]
    found: Callable[..., Any] = getattr(importlib.import_module(f"detector.ops.{module}"), function)
    return found


def moved(arguments: tuple[Any, ...], device: torch.device) -> tuple[Any, ...]:
    return tuple(each.to(device) if isinstance(each, Tensor) else each for each in arguments)


def assert_near(result: Any, expected: Any, name: str) -> None:
    """Require equal integers and maxima, sums equal up to rounding, and the same dtype and shape."""
    results = result if isinstance(result, tuple) else (result,)
    for ours, other in zip(results, expected if isinstance(expected, tuple) else (expected,), strict=True):
        assert (ours.dtype, ours.shape) == (other.dtype, other.shape), name
        ours, other = ours.cpu(), other.contiguous()
        if name in {"roi_pool", "roi_pool_gather", "ps_roi_pool_max"} or not ours.is_floating_point():
            equal = torch.equal(ours.to(torch.int64), other.to(torch.int64)) if ours.dtype == torch.uint16 else None
            assert torch.equal(ours, other) if equal is None else equal, name
        elif other.numel():
            bound = TOLERANCE[other.dtype] * max(1.0, other.double().abs().max().item())
            torch.testing.assert_close(ours.double(), other.double(), rtol=0, atol=bound, msg=lambda text: name + text)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_operators_equal_the_pytorch_kernels(
    device: torch.device, dtype: torch.dtype, shape: str, layout: torch.memory_format
) -> None:
    if shape == "direct" and device.type == "cpu":
        pytest.skip("only the CUDA kernels have a path for maps beyond shared memory")
    size = MAPS[shape]
    features = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(dtype).to(memory_format=layout)
    rois = random_rois(12, size[0], *size[2:], torch.float64 if dtype == torch.float64 else torch.float32)
    for name, arguments in operators(features, rois):
        result = getattr(torch.ops.fast_rfcn, name).default(*moved(arguments, device))
        if name == "roi_align_max":  # if two samples are equal up to rounding, either may be the maximum
            result = result[0]
            assert_near(result, reference_of(name)(*arguments)[0], name)
        else:
            assert_near(result, reference_of(name)(*arguments), name)


def test_offsets_beyond_32_bits(device: torch.device) -> None:
    """The images are 2^31 elements apart. On a CPU few of the pages between them are used."""
    together = torch.randn(2, 9, 6, 8, generator=torch.Generator().manual_seed(5)).to(torch.bfloat16)
    apart = torch.empty(2**31 + 1000, dtype=torch.bfloat16, device=device).as_strided(together.shape, (2**31, 48, 8, 1))
    apart.copy_(together)
    for name, arguments in operators(together, random_rois(12, 2, 6, 8, torch.float32)):
        operator = getattr(torch.ops.fast_rfcn, name).default
        near = moved(arguments, device)
        far = tuple(apart if each is together else other for each, other in zip(arguments, near, strict=True))
        assert_near(operator(*far), moved(_tuple(operator(*near)), torch.device("cpu")), name)


def _tuple(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1500])
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_suppression_equals_the_pytorch_kernel(
    device: torch.device, count: int, labelled: bool, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=generator) * 300
    boxes = torch.cat((corners, corners + torch.rand(count, 2, generator=generator) * 120 - 4), dim=1).to(dtype)
    scores = (torch.rand(count, generator=generator) * 200).round() / 200
    labels = torch.randint(5, (count,), generator=generator) if labelled else None
    for threshold in (0.0, 0.3, 0.7):
        for max_output in (None, 0, 1, 40, 5000):
            arguments = (boxes, scores, labels, threshold, max_output)
            kept = torch.ops.fast_rfcn.nms.default(*moved(arguments, device))
            assert torch.equal(kept.cpu(), reference_of("nms")(*arguments)), (threshold, max_output)


@pytest.mark.parametrize("name", ["roi_align", "roi_warp", "ps_roi_pool", "ps_roi_vote", "ps_roi_align"])
def test_gradients_match_the_forward_pass(device: torch.device, name: str) -> None:
    features = torch.randn(2, 18, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).to(device)
    boxes = torch.tensor([[3.1, 5.2, 60.3, 90.4], [20.5, 10.6, 130.7, 70.8]], dtype=torch.float64, device=device)
    images = torch.tensor([[0.0], [1.0]], dtype=torch.float64, device=device)
    pool = getattr(ops, name)
    inputs = (features.requires_grad_(), boxes.requires_grad_(name == "roi_warp"))
    assert torch.autograd.gradcheck(lambda x, b: pool(x, torch.cat((images, b), dim=1), BINS, SCALE), inputs)


def test_repeated_calls_give_the_same_bits(device: torch.device) -> None:
    features = torch.randn(2, 18, 23, 37, generator=torch.Generator().manual_seed(3)).to(device)
    rois = random_rois(200, 2, 23, 37, torch.float32)
    for name, arguments in operators(features.cpu(), rois):
        first, second = (getattr(torch.ops.fast_rfcn, name).default(*moved(arguments, device)) for _ in range(2))
        pairs = zip(first, second, strict=True) if isinstance(first, tuple) else [(first, second)]
        for one, other in pairs:
            assert torch.equal(one.view(torch.uint8), other.view(torch.uint8)), name


def test_the_rois_gradient_of_roi_warp_equals_the_pytorch_kernels(device: torch.device) -> None:
    features = torch.randn(2, 19, 23, 37, generator=torch.Generator().manual_seed(4))
    rois, grad = random_rois(12, 2, 23, 37, torch.float32), torch.randn(12, 19, 6, 5)
    rois[3:5, 1:] = 10
    module = importlib.import_module("detector.ops.roi_warp")
    expected = module._roi_gradient(grad, features, rois, SCALE)
    result = torch.ops.fast_rfcn.roi_warp_backward.default(*moved((grad, features, rois), device), SCALE)[1]
    torch.testing.assert_close(result.cpu(), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def wild(values: Tensor, replacements: tuple[float, ...], generator: torch.Generator) -> Tensor:
    """Return a copy in which each replacement takes the place of 2 % of the values."""
    draw = (torch.rand(values.shape, generator=generator) * 50).long()
    for number, replacement in enumerate(replacements):
        values = values.masked_fill(draw == number, replacement)
    return values


def kinds(result: Any) -> Tensor:
    """Classify the values of the first output: 0 for a number, 1 for NaN, 2 and 3 for the infinities."""
    values = (result[0] if isinstance(result, tuple) else result).cpu()
    return values.isnan() * 1 + values.isposinf() * 2 + values.isneginf() * 3


@pytest.mark.parametrize("replacements", [NAN, INFINITE], ids=["nan", "infinite"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_and_infinity_are_where_the_pytorch_kernels_have_them(
    device: torch.device, dtype: torch.dtype, replacements: tuple[float, ...]
) -> None:
    generator, size = torch.Generator().manual_seed(6), (2, 18, 11, 15)
    features = torch.randn(size, generator=generator).to(dtype)
    rois = random_rois(20, size[0], *size[2:], torch.float64 if dtype == torch.float64 else torch.float32)
    warp = ("roi_warp", (features, rois, 6, 5, SCALE))
    for name, (first, *rest) in (*operators(features, rois), warp):  # the first argument is the features or a gradient
        is_gradient = name.endswith(("backward", "scatter"))
        is_maximum = not is_gradient and ("max" in name or name.startswith("roi_pool"))
        if is_gradient and device.type == "cuda":
            continue  # those kernels skip weights of 0, which would spread NaN to one more cell
        # If a sample lies on a cell, the PyTorch kernels add 0 x its neighbour, which at the last row and column is the
        # cell itself. Other kernels may join the two weights. With infinity the result is NaN or infinity.
        first = first.clone()
        part = first[..., :-1, :-1] if is_maximum else first
        part.copy_(wild(part, replacements, generator))
        ours = kinds(getattr(torch.ops.fast_rfcn, name).default(*moved((first, *rest), device)))
        if name == "roi_warp":
            theirs = kinds(reference_of("roi_align")(first, *rest, 1, True, False))
        else:
            theirs = kinds(reference_of(name)(first, *rest))
        if replacements == INFINITE and not is_maximum:
            ours, theirs = ours > 0, theirs > 0
        assert torch.equal(ours, theirs), name
        assert theirs.any(), name


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_suppression_of_boxes_and_scores_that_are_not_finite(
    device: torch.device, dtype: torch.dtype, labelled: bool
) -> None:
    generator = torch.Generator().manual_seed(7)
    corners = torch.rand(500, 2, generator=generator) * 300
    boxes = torch.cat((corners, corners + torch.rand(500, 2, generator=generator) * 150), dim=1)
    boxes, scores = (wild(each, INFINITE, generator).to(dtype) for each in (boxes, boxes[:, 2] / 450))
    labels = torch.randint(3, (500,), generator=generator) if labelled else None
    for threshold in (0.0, 0.3, 0.7):
        arguments = (boxes, scores, labels, threshold, None)
        kept = torch.ops.fast_rfcn.nms.default(*moved(arguments, device))
        assert torch.equal(kept.cpu(), reference_of("nms")(*arguments)), threshold
