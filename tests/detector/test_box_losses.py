"""GIoU and CIoU losses against their formulas in Python floats, torchvision and hand-worked numbers."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, generalized_box_iou_loss

from detector.box_losses import OverlapLoss, ciou_loss, giou_loss

BOTH = pytest.mark.parametrize("loss", [giou_loss, ciou_loss])
THIRD = 1 / 3


def random_boxes(count: int, seed: int) -> Tensor:
    """Return float64 boxes in 200 x 200 pixels, of which about half overlap a second set of another seed."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 120
    return torch.cat((low, low + 5 + 75 * torch.rand(count, 2, generator=generator, dtype=torch.float64)), dim=1)


def loop_giou(box: list[float], truth: list[float]) -> float:
    x1, y1, x2, y2 = box
    a1, b1, a2, b2 = truth
    intersection = max(0.0, min(x2, a2) - max(x1, a1)) * max(0.0, min(y2, b2) - max(y1, b1))
    union = (x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - intersection
    enclosing = (max(x2, a2) - min(x1, a1)) * (max(y2, b2) - min(y1, b1))
    return 1 - (intersection / union - (enclosing - union) / enclosing)


def loop_ciou(box: list[float], truth: list[float]) -> float:
    x1, y1, x2, y2 = box
    a1, b1, a2, b2 = truth
    intersection = max(0.0, min(x2, a2) - max(x1, a1)) * max(0.0, min(y2, b2) - max(y1, b1))
    iou = intersection / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - intersection)
    diagonal = (max(x2, a2) - min(x1, a1)) ** 2 + (max(y2, b2) - min(y1, b1)) ** 2
    centres = ((x1 + x2 - a1 - a2) / 2) ** 2 + ((y1 + y2 - b1 - b2) / 2) ** 2
    v = 4 / math.pi**2 * (math.atan((a2 - a1) / (b2 - b1)) - math.atan((x2 - x1) / (y2 - y1))) ** 2
    alpha = v / (1 - iou + v) if v > 0 else 0.0
    return 1 - iou + centres / diagonal + alpha * v


@pytest.mark.parametrize(
    ("loss", "formula", "torchvision"),
    [(giou_loss, loop_giou, generalized_box_iou_loss), (ciou_loss, loop_ciou, complete_box_iou_loss)],
)
@given(seed=st.integers(0, 10**6))
def test_losses_equal_the_formula_and_torchvision(
    loss: OverlapLoss, formula: Callable[[list[float], list[float]], float], torchvision: OverlapLoss, seed: int
) -> None:
    boxes, truths = random_boxes(20, seed), random_boxes(20, seed + 10**7)
    found = loss(boxes, truths)
    expected = [formula(*pair) for pair in zip(boxes.tolist(), truths.tolist(), strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found, torchvision(boxes, truths), rtol=1e-6, atol=1e-6)  # its epsilon is 1e-7


@BOTH
def test_gradients_equal_torchvisions(loss: OverlapLoss) -> None:
    """For CIoU this also checks that the weight of the aspect term is a constant."""
    boxes, truths = random_boxes(50, 1).requires_grad_(), random_boxes(50, 2)
    torchvision = generalized_box_iou_loss if loss is giou_loss else complete_box_iou_loss
    (found,) = torch.autograd.grad(loss(boxes, truths).sum(), boxes)
    (expected,) = torch.autograd.grad(torchvision(boxes, truths).sum(), boxes)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_hand_worked_numbers() -> None:
    truth = torch.tensor([0.0, 0.0, 4.0, 4.0])
    boxes = torch.tensor(
        [
            [0.0, 0.0, 4.0, 4.0],  # equal
            [2.0, 0.0, 6.0, 4.0],  # half moved: intersection 8, union 24, enclosing box 24
            [2.0, 2.0, 6.0, 6.0],  # intersection 4, union 28, enclosing box 36
            [8.0, 0.0, 12.0, 4.0],  # apart: union 32, enclosing box 48
            [0.0, 1.0, 4.0, 3.0],  # half as high, same centre: intersection 8, union 16, enclosing box 16
        ]
    )
    giou = [0.0, 1 - THIRD, 1 - 4 / 28 + 8 / 36, 1 + 16 / 48, 0.5]
    v = 4 / math.pi**2 * (math.pi / 4 - math.atan(2)) ** 2
    ciou = [0.0, 1 - THIRD + 4 / (36 + 16), 1 - 4 / 28 + 8 / 72, 1 + 64 / (144 + 16), 0.5 + v * v / (0.5 + v)]
    torch.testing.assert_close(giou_loss(boxes, truth), torch.tensor(giou))
    torch.testing.assert_close(ciou_loss(boxes, truth), torch.tensor(ciou))


@given(seed=st.integers(0, 10**6), wider=st.floats(0.01, 100), higher=st.floats(0.01, 100))
def test_giou_does_not_change_with_the_scale_of_an_axis(seed: int, wider: float, higher: float) -> None:
    boxes, truths = random_boxes(10, seed), random_boxes(10, seed + 10**7)
    scale = torch.tensor([wider, higher, wider, higher], dtype=torch.float64)
    torch.testing.assert_close(giou_loss(boxes * scale, truths * scale), giou_loss(boxes, truths))


@BOTH
@given(seed=st.integers(0, 10**6), scale=st.floats(0.01, 100), shift=st.floats(-1000, 1000))
def test_losses_do_not_change_with_scale_and_position_and_are_symmetric(
    loss: OverlapLoss, seed: int, scale: float, shift: float
) -> None:
    boxes, truths = random_boxes(10, seed), random_boxes(10, seed + 10**7)
    expected = loss(boxes, truths)
    torch.testing.assert_close(loss(boxes * scale + shift, truths * scale + shift), expected)
    torch.testing.assert_close(loss(truths, boxes), expected)
    assert (expected > 0).all()
    assert (giou_loss(boxes, truths) < 2).all()


@BOTH
def test_gradcheck_with_overlapping_nested_and_distant_boxes(loss: OverlapLoss) -> None:
    truths = torch.tensor([[10.0, 10, 50, 40]] * 4, dtype=torch.float64)
    boxes = torch.tensor(
        [[12.0, 5, 61, 33], [20, 15, 30, 25], [-5, -5, 70, 66], [100, 90, 130, 99]], dtype=torch.float64
    )
    boxes.requires_grad_()
    if loss is ciou_loss:  # its weight is a constant for the gradient only, so compare without the aspect term
        truths = boxes.detach() * 1.5 + torch.tensor([3.0, -2.0, 3.0, -2.0])  # equal aspects
    assert torch.autograd.gradcheck(lambda value: loss(value, truths), (boxes,))


@BOTH
def test_boxes_apart_attract_each_other(loss: OverlapLoss) -> None:
    boxes = torch.tensor([[100.0, 0.0, 120.0, 20.0]], requires_grad=True)
    loss(boxes, torch.tensor([[0.0, 0.0, 20.0, 20.0]])).sum().backward()
    assert boxes.grad is not None
    assert boxes.grad[0, 0] + boxes.grad[0, 2] > 0  # a step against the gradient moves the box to the left


POINT, LINE, BOX = [5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 25.0], [0.0, 0.0, 10.0, 20.0]
FAR = [1e30, 1e30, 1e30, 1e30]
HUGE = [-1e20, -1e20, 1e20, 1e20]


@BOTH
@pytest.mark.parametrize("truth", [BOX, POINT, LINE, [0.0] * 4])
@pytest.mark.parametrize("box", [BOX, POINT, LINE, FAR, HUGE, [0.0] * 4, [10.0, 20.0, 20.0, 40.0]])
def test_degenerate_boxes_have_finite_losses_and_gradients(
    loss: OverlapLoss, box: list[float], truth: list[float]
) -> None:
    boxes = torch.tensor([box], requires_grad=True)
    value = loss(boxes, torch.tensor([truth]))
    value.sum().backward()
    assert boxes.grad is not None
    assert value.isfinite().all()
    assert boxes.grad.isfinite().all()
    assert 0 <= value.item() <= 3


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_boxes_have_loss_0_however_narrow(loss: OverlapLoss, dtype: torch.dtype) -> None:
    sides = [0.0, 1e-5, 5e-4, 1e-3, 0.02, 12.0]
    rows = [
        [left, left, left + width, left + height] for left in (0.0, 5.0, 700.3) for width in sides for height in sides
    ]
    boxes = torch.tensor(rows, dtype=dtype, requires_grad=True)
    values = loss(boxes, boxes.detach().clone())
    values.sum().backward()
    most = 1e-6 if loss is giou_loss else 1e-3  # CIoU rounds the centres
    assert values.abs().max() < most
    assert boxes.grad is not None
    assert boxes.grad.isfinite().all()


@BOTH
def test_losses_grow_steadily_from_narrow_boxes_to_wide_ones(loss: OverlapLoss) -> None:
    """The truth has width 1. Boxes with the same left edge have widths from 0 to 2."""
    widths = torch.linspace(0, 2, 8001, dtype=torch.float64)
    zero, high = torch.zeros_like(widths), torch.full_like(widths, 4.0)
    values = loss(torch.stack((zero, zero, widths, high), dim=1), torch.tensor([0.0, 0.0, 1.0, 4.0]).double())
    assert values.diff().abs().max() < 2e-3
    assert values.argmin() == 4000


@BOTH
def test_empty_and_batched_boxes(loss: OverlapLoss) -> None:
    assert loss(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)
    boxes, truths = random_boxes(6, 3), random_boxes(6, 4)
    assert torch.equal(loss(boxes.view(2, 3, 4), truths.view(2, 3, 4)).flatten(), loss(boxes, truths))
