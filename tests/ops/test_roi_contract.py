"""The contract of every RoI operator besides its values: dtypes, shapes, errors, compile, export."""

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor
from torch.library import opcheck

from detector import ops

FAMILY: dict[str, Callable[..., Tensor]] = {
    **{f"roi_pool-{rule}": functools.partial(ops.roi_pool, quantization=rule) for rule in ("caffe", "outer")},
    "roi_align": functools.partial(ops.roi_align, sampling_ratio=2),
    "roi_align-adaptive": ops.roi_align,
    "roi_align-max": functools.partial(ops.roi_align, reduction="max", sample_grid="inner", sampling_ratio=2),
    "roi_warp": ops.roi_warp,
}
ROIS = torch.tensor([[0, 3.1, 4.2, 60.3, 77.7], [1, -20, -30, 40, 33], [0, 300, 300, 400, 400], [1, 64, 64, 32, 32.0]])
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.fixture(params=FAMILY)
def pool(request: pytest.FixtureRequest) -> Callable[..., Tensor]:
    return FAMILY[request.param]


def features(dtype: torch.dtype = torch.float32, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 9, 11, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_dtype_of_the_features_is_kept_for_rois_of_any_dtype(
    pool: Callable[..., Tensor], dtype: torch.dtype
) -> None:
    x = features(dtype).requires_grad_()
    outputs = [pool(x, ROIS.to(rois), (2, 3), 1 / 16) for rois in (torch.float32, torch.float64)]
    assert {output.dtype for output in outputs} == {dtype}
    assert outputs[0].shape == (4, 3, 2, 3)
    (grad,) = torch.autograd.grad(outputs[0].sum(), x)
    assert grad.dtype == dtype
    assert torch.isfinite(grad).all()


def test_autocast_does_not_cast_features_or_rois(pool: Callable[..., Tensor]) -> None:
    expected = pool(features(), ROIS, 7, 1 / 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pool(features(), ROIS, 7, 1 / 16), expected)
        half = pool(features(torch.bfloat16), ROIS, 7, 1 / 16)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, pool(features(torch.bfloat16), ROIS, 7, 1 / 16))


def test_a_list_of_boxes_gives_the_same_as_rois(pool: Callable[..., Tensor]) -> None:
    order = ROIS[:, 0].argsort(stable=True)
    listed = [ROIS[ROIS[:, 0] == image][:, 1:] for image in (0, 1)]
    assert torch.equal(pool(features(), listed, 3, 1 / 16), pool(features(), ROIS[order], 3, 1 / 16))


def test_layouts_agree_and_views_are_read_in_place(pool: Callable[..., Tensor]) -> None:
    x = features(channels=40)
    expected = pool(x, ROIS, 3, 1 / 16)
    assert torch.equal(pool(x.to(memory_format=torch.channels_last), ROIS, 3, 1 / 16), expected)
    padded = torch.nn.functional.pad(x, (1, 2, 3, 4))[:, :, 3:-4, 1:-2]
    assert torch.equal(pool(padded, ROIS, 3, 1 / 16), expected)
    doubled = x.repeat_interleave(2, dim=1)[:, ::2]
    assert torch.equal(pool(doubled, ROIS, 3, 1 / 16), expected)


@pytest.mark.parametrize("shape", [(0, 3, 9, 11), (2, 0, 9, 11), (2, 3, 0, 11)])
def test_empty_inputs_give_empty_results(pool: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape, requires_grad=True)
    for rois in (ROIS[:0], ROIS[:0] if shape[0] == 0 else ROIS):
        output = pool(x, rois, (2, 3), 1 / 16)
        assert output.shape == (len(rois), shape[1], 2, 3)
        assert not output.any()
        assert torch.autograd.grad(output.sum(), x)[0].shape == x.shape
    assert pool(torch.zeros(0, 3, 9, 11), [], 2, 1 / 16).shape == (0, 3, 2, 2)


def test_nan_reaches_only_the_bins_that_read_it(pool: Callable[..., Tensor]) -> None:
    x = torch.zeros(1, 1, 12, 12)
    x[0, 0, 1, 1] = math.nan
    rois = torch.tensor([[0.0, 0, 0, 191, 191]])
    has_nan = pool(x, rois, 4, 1 / 16).isnan()[0, 0]
    assert has_nan[0, 0]
    assert not has_nan[2:].any()
    assert not has_nan[:, 2:].any()


def test_the_gradient_has_the_same_bits_every_time(pool: Callable[..., Tensor]) -> None:
    x = features(channels=70).requires_grad_()
    rois = ROIS.repeat(50, 1)
    output = pool(x, rois, 7, 1 / 16)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    first = torch.autograd.grad(output, x, weight, retain_graph=True)[0]
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        assert torch.equal(torch.autograd.grad(output, x, weight, retain_graph=True)[0], first)
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("x", "rois", "size", "message"),
    [
        (torch.zeros(3, 9, 11), ROIS, 7, r"features \[N, C, H, W\].*got float32 \[3, 9, 11\]"),
        (torch.zeros(2, 3, 9, 11, dtype=torch.int64), ROIS, 7, "got int64"),
        (torch.zeros(2, 3, 9, 11), ROIS[:, :4], 7, r"rois \[R, 5\].*got float32 \[4, 4\].*to_rois"),
        (torch.zeros(2, 3, 9, 11), ROIS.long(), 7, "floating dtype, got int64"),
        (torch.zeros(2, 3, 9, 11), [ROIS[:, 1:]], 7, "2 images, got 1"),
        (torch.zeros(2, 3, 9, 11), [ROIS[:, 1:], ROIS], 7, r"as rois\[1\] of a floating dtype, got float32 \[4, 5\]"),
        (torch.zeros(2, 3, 9, 11, device="meta"), ROIS, 7, "device of the features, meta, got cpu"),
        (torch.zeros(1, 3, 9, 11), ROIS, 7, r"0\.\.0 for 1 images, got values from 0\.0 to 1\.0"),
        (torch.zeros(2, 3, 9, 11), ROIS - 1, 7, "got values from -1.0 to 0.0"),
        (torch.zeros(2, 3, 9, 11), ROIS * math.nan, 7, "nan"),
        (torch.zeros(2, 3, 9, 11), ROIS, 0, "positive int or a pair"),
        (torch.zeros(2, 3, 9, 11), ROIS, (7, 7, 7), "positive int or a pair"),
    ],
)
def test_errors_state_the_given_value(
    pool: Callable[..., Tensor], x: Tensor, rois: Any, size: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pool(x, rois, size, 1 / 16)


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="quantization to be one of .*got 'round'"):
        ops.roi_pool(features(), ROIS, 7, 1 / 16, quantization="round")
    with pytest.raises(ValueError, match="reduction"):
        ops.roi_align(features(), ROIS, 7, 1 / 16, reduction="sum")
    with pytest.raises(ValueError, match="sample_grid"):
        ops.roi_align(features(), ROIS, 7, 1 / 16, sample_grid="outer")
    with pytest.raises(ValueError, match="at least 0.*got -1"):
        ops.roi_align(features(), ROIS, 7, 1 / 16, sampling_ratio=-1)


def _opcheck_cases() -> dict[str, tuple[str, Callable[[Tensor, Tensor], tuple[Any, ...]]]]:
    """Return, for each operator of the dispatcher, its name and a function from features and RoIs to its arguments."""
    library = torch.ops.fast_rfcn
    align = (1 / 16, 2, True, False)

    def pooled(x: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        value, argmax = library.roi_pool.default(x.detach(), rois, 3, 2, 1 / 16, "caffe", True)
        return value.requires_grad_(), argmax

    def largest(x: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        value, argmax = library.roi_align_max.default(x.detach(), rois, 3, 2, *align)
        return value.requires_grad_(), argmax

    def grad(x: Tensor, rois: Tensor) -> Tensor:
        return torch.ones(len(rois), x.shape[1], 3, 2, dtype=x.dtype, requires_grad=True)

    return {
        "roi_pool": ("roi_pool", lambda x, r: (x, r, 3, 2, 1 / 16, "caffe", True)),
        "roi_pool inference": ("roi_pool", lambda x, r: (x, r, 3, 2, 1 / 16, "split", False)),
        "roi_pool_scatter": (
            "roi_pool_scatter",
            lambda x, r: (pooled(x, r)[0], r, pooled(x, r)[1], list(x.shape)),
        ),
        "roi_pool_gather": ("roi_pool_gather", lambda x, r: (x, r, pooled(x, r)[1])),
        "roi_align": ("roi_align", lambda x, r: (x, r, 3, 2, *align)),
        "roi_align_backward": ("roi_align_backward", lambda x, r: (grad(x, r), r, list(x.shape), *align)),
        "roi_align_max": ("roi_align_max", lambda x, r: (x, r, 3, 2, *align)),
        "roi_align_max_scatter": (
            "roi_align_max_scatter",
            lambda x, r: (largest(x, r)[0], r, largest(x, r)[1], list(x.shape), *align),
        ),
        "roi_align_max_gather": ("roi_align_max_gather", lambda x, r: (x, r, largest(x, r)[1], *align)),
        "roi_warp": ("roi_warp", lambda x, r: (x, r.clone().requires_grad_(), 3, 2, 1 / 16)),
        "roi_warp_backward": ("roi_warp_backward", lambda x, r: (grad(x, r), x, r.clone().requires_grad_(), 1 / 16)),
    }


OPCHECK_CASES = _opcheck_cases()


# opcheck reads .grad of a tensor that is not a leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("name", OPCHECK_CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_operators_keep_the_dispatcher_contract(name: str, dtype: torch.dtype) -> None:
    operator, arguments = OPCHECK_CASES[name]
    x = features(dtype).requires_grad_()
    results = opcheck(getattr(torch.ops.fast_rfcn, operator).default, arguments(x, ROIS.clone()))
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", ["roi_pool-caffe", "roi_align", "roi_align-max", "roi_warp"])
def test_one_compiled_graph_handles_any_number_of_rois(name: str) -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    pool = FAMILY[name]
    compiled = torch.compile(lambda x, rois: pool(x * 2, rois, 7, 1 / 16).sum(dim=1), backend=counter, fullgraph=True)
    for count in (4, 3, 2, 4):
        x = features().requires_grad_()
        rois = ROIS[:count].clone()
        torch._dynamo.mark_dynamic(rois, 0)
        output = compiled(x, rois)
        assert torch.equal(output, pool(x * 2, rois, 7, 1 / 16).sum(dim=1))
        (grad,) = torch.autograd.grad(output.square().sum(), x)
        (expected,) = torch.autograd.grad(pool(x * 2, rois, 7, 1 / 16).sum(dim=1).square().sum(), x)
        torch.testing.assert_close(grad, expected)
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", ["roi_pool-caffe", "roi_align", "roi_align-max", "roi_warp"])
def test_an_exported_program_handles_any_number_of_rois_and_map_size(name: str) -> None:
    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor, rois: Tensor) -> Tensor:
            return FAMILY[name](self.convolution(x), rois, 7, 1 / 16)

    head = Head()
    dims = {"x": {2: torch.export.Dim("height", min=4), 3: torch.export.Dim("width", min=4)}}
    program = torch.export.export(
        head, (features(), ROIS), dynamic_shapes={**dims, "rois": {0: torch.export.Dim("rois", max=4096)}}
    )
    x = torch.randn(2, 3, 13, 17, generator=torch.Generator().manual_seed(2))
    for rois in (ROIS, ROIS[:3], ROIS.repeat(5, 1), ROIS[:0]):
        torch.testing.assert_close(program.module()(x, rois), head(x, rois))
