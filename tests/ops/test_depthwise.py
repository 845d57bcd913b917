"""Depthwise convolution: the values and gradients of `F.conv2d`, for any map, stride, dilation and padding."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from detector.ops.depthwise import depthwise_conv

SHAPES = [(2, 5, 12, 18), (1, 40, 7, 11), (3, 17, 1, 2), (1, 70, 5, 4), (0, 3, 4, 4), (2, 1, 3, 3)]


def tensors_of(
    shape: tuple[int, ...], k: int, dtype: torch.dtype, layout: torch.memory_format
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype).to(memory_format=layout)
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    parts = x, torch.randn(shape[1], 1, k, k, dtype=sums), torch.randn(shape[1], dtype=sums)
    return tuple(part.requires_grad_() for part in parts)  # type: ignore[return-value]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("k", [1, 3, 5, 7])
def test_values_and_gradients_equal_those_of_torch(k: int, layout: torch.memory_format) -> None:
    dtypes = torch.float64, torch.float32
    for shape, stride, dilation, dtype in itertools.product(SHAPES, (1, 2, 3), (1, 2, 4), dtypes):
        reach = dilation * (k - 1)
        for padding in {reach // 2, reach, reach // 3}:
            if min(shape[2:]) + 2 * padding <= reach:
                continue
            parts = tensors_of(shape, k, dtype, layout)
            ours = depthwise_conv(*parts, stride=stride, dilation=dilation, padding=padding)
            expected = F.conv2d(*parts, stride, padding, dilation, shape[1])
            torch.testing.assert_close(ours, expected)
            assert ours.is_contiguous(memory_format=torch.channels_last)
            slope = torch.randn_like(expected)
            for mine, theirs in zip(
                torch.autograd.grad(ours, parts, slope), torch.autograd.grad(expected, parts, slope), strict=True
            ):
                torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 2), (2, 1)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_results_are_rounded_once(dtype: torch.dtype, stride: int, dilation: int) -> None:
    x, kernel, bias = tensors_of((2, 40, 9, 6), 3, dtype, torch.channels_last)
    ours = depthwise_conv(x, kernel, bias, stride=stride, dilation=dilation, padding=dilation)
    exact = F.conv2d(x.double(), kernel.double(), bias.double(), stride, dilation, dilation, 40)
    step = torch.finfo(dtype).eps
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), exact, rtol=0.51 * step, atol=1e-5)
    slope = torch.randn_like(exact).to(dtype)
    mine = torch.autograd.grad(ours, (x, kernel, bias), slope)
    theirs = torch.autograd.grad(exact, (x, kernel, bias), slope.double())
    assert [grad.dtype for grad in mine] == [dtype, torch.float32, torch.float32]
    torch.testing.assert_close(mine[0].double(), theirs[0].double(), rtol=0.51 * step, atol=1e-3)
    torch.testing.assert_close(mine[1], theirs[1], rtol=1e-5, atol=1e-4)


def test_nan_and_infinity_reach_only_cells_that_read_them() -> None:
    x = torch.zeros(1, 40, 5, 5, dtype=torch.bfloat16)
    x[0, :, 2, 2] = torch.nan
    x[0, 3, 2, 2] = torch.inf
    out = depthwise_conv(x, torch.ones(40, 1, 3, 3), None, dilation=2, padding=2)
    reached = torch.zeros(5, 5, dtype=torch.bool)
    reached[::2, ::2] = True
    assert torch.equal(out.isnan()[0, 0], reached)
    assert torch.equal(out.isinf()[0, 3], reached)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 2), (2, 1), (2, 2)])
def test_second_derivatives_are_correct(stride: int, dilation: int) -> None:
    parts = tensors_of((1, 3, 4, 5), 3, torch.float64, torch.channels_last)
    assert torch.autograd.gradgradcheck(
        lambda *args: depthwise_conv(*args, stride=stride, dilation=dilation, padding=1), parts
    )


def test_the_operators_keep_the_dispatcher_contract() -> None:
    x, kernel, bias = tensors_of((1, 3, 7, 5), 3, torch.float32, torch.channels_last)
    x, taps = x.detach().requires_grad_(), kernel.detach()[:, 0].permute(1, 2, 0).contiguous().requires_grad_()
    grad = torch.randn(1, 3, 4, 3).to(memory_format=torch.channels_last).requires_grad_()
    quick = ("test_schema", "test_autograd_registration", "test_faketensor")
    operators = torch.ops.fast_rfcn
    torch.library.opcheck(operators.depthwise.default, (x, taps, bias, 2, 1, 1), test_utils=quick)
    torch.library.opcheck(operators.depthwise_input_grad.default, (grad, taps, [1, 3, 7, 5], 2, 1, 1), test_utils=quick)
    torch.library.opcheck(operators.depthwise_weight_grad.default, (grad, x, 3, 2, 1, 1), test_utils=quick)


def test_an_output_can_be_changed_in_place_without_further_copies() -> None:
    parts = tensors_of((1, 3, 7, 5), 3, torch.float32, torch.channels_last)
    out = depthwise_conv(*parts, stride=2, padding=1)
    assert not out._is_view(), "autograd copies a view several times if it is changed in place"


def test_results_have_the_same_bits_on_any_number_of_threads() -> None:
    parts = tensors_of((2, 70, 9, 13), 3, torch.float32, torch.channels_last)
    found = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            out = depthwise_conv(*parts, stride=2, dilation=2, padding=2)
            found.append((out.detach(), *torch.autograd.grad(out, parts[:2], torch.ones_like(out))))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_mistakes_are_named() -> None:
    x = torch.zeros(1, 2, 5, 5)
    with pytest.raises(ValueError, match=r"kernel \[2, 1, k, k\] with odd k up to 7, got \[2, 1, 2, 2\]"):
        depthwise_conv(x, torch.zeros(2, 1, 2, 2), None, dilation=1, padding=0)
    with pytest.raises(ValueError, match="padding of 0 to 4"):
        depthwise_conv(x, torch.zeros(2, 1, 3, 3), None, dilation=2, padding=5)
    with pytest.raises(ValueError, match="got stride 0"):
        depthwise_conv(x, torch.zeros(2, 1, 3, 3), None, stride=0)
    with pytest.raises(ValueError, match="at least one cell"):
        depthwise_conv(x, torch.zeros(2, 1, 3, 3), None, dilation=3, padding=0)
