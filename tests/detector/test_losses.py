"""The multi-task loss against a loop in float64, and its zero gradients for background and ignored RoIs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detector.losses import roi_losses, smooth_l1
from detector.structures import RoIPredictions, RoITargets


def loop_smooth_l1(x: float, sigma: float) -> float:
    return 0.5 * (sigma * x) ** 2 if abs(x) < 1 / sigma**2 else abs(x) - 0.5 / sigma**2


def loop_losses(predictions: RoIPredictions, targets: RoITargets, sigma: float) -> tuple[list[float], list[float]]:
    classification, box = [], []
    for logits, deltas, label, target in zip(
        predictions.logits.tolist(),
        predictions.deltas.tolist(),
        targets.labels.tolist(),
        targets.deltas.tolist(),
        strict=True,
    ):
        largest = max(logits)
        log_sum = largest + math.log(sum(math.exp(value - largest) for value in logits))
        classification.append(log_sum - logits[label] if label >= 0 else 0.0)
        row = deltas[label - 1] if len(deltas) > 1 else deltas[0]
        errors = [found - wanted for found, wanted in zip(row, target, strict=True)]
        box.append(sum(loop_smooth_l1(error, sigma) for error in errors) if label > 0 else 0.0)
    return classification, box


def case(rois: int, classes: int, rows: int, seed: int) -> tuple[RoIPredictions, RoITargets]:
    generator = torch.Generator().manual_seed(seed)
    predictions = RoIPredictions(
        torch.randn(rois, classes + 1, generator=generator) * 4, torch.randn(rois, rows, 4, generator=generator) * 2
    )
    labels = torch.randint(-1, classes + 1, (rois,), generator=generator)
    return predictions, RoITargets(labels, torch.randn(rois, 4, generator=generator))


@given(st.integers(0, 30), st.integers(1, 20), st.booleans(), st.sampled_from([1.0, 3.0]), st.integers(0, 10**6))
def test_losses_of_each_roi_equal_a_loop(rois: int, classes: int, agnostic: bool, sigma: float, seed: int) -> None:
    predictions, targets = case(rois, classes, 1 if agnostic else classes, seed)
    found = roi_losses(predictions, targets, sigma)
    classification, box = loop_losses(predictions, targets, sigma)
    torch.testing.assert_close(found.classification, torch.tensor(classification), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.box, torch.tensor(box), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_smooth_l1_becomes_linear_at_one_over_sigma_squared(sigma: float) -> None:
    turn = 1 / sigma**2
    x = torch.tensor([0.0, turn / 2, turn - 1e-4, turn + 1e-4, 5.0], dtype=torch.float64, requires_grad=True)
    value = smooth_l1(x, sigma)
    expected = torch.tensor([loop_smooth_l1(v, sigma) for v in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(value.detach(), expected)
    assert torch.equal(smooth_l1(-x, sigma), value)
    value.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, (x.detach() * sigma**2).clamp(max=1.0))
    assert torch.autograd.gradcheck(lambda v: smooth_l1(v, sigma), (x.detach()[1:2].requires_grad_(),))


def test_only_the_true_class_gets_a_box_gradient() -> None:
    deltas = torch.zeros(3, 4, 4, requires_grad=True)
    labels = torch.tensor([2, 0, -1])
    losses = roi_losses(RoIPredictions(torch.zeros(3, 5), deltas), RoITargets(labels, torch.full((3, 4), 0.5)), 1.0)
    losses.box.sum().backward()
    assert deltas.grad is not None
    assert deltas.grad[0, 1].tolist() == [-0.5] * 4
    deltas.grad[0, 1] = 0
    assert (deltas.grad == 0).all()


def test_ignored_rois_give_exact_zero_losses_and_zero_gradients() -> None:
    logits, deltas = torch.randn(4, 3, requires_grad=True), torch.randn(4, 2, 4, requires_grad=True)
    targets = RoITargets(torch.full((4,), -1), torch.zeros(4, 4))
    losses = roi_losses(RoIPredictions(logits, deltas), targets, 1.0)
    assert (losses.classification == 0).all()
    assert (losses.box == 0).all()
    (losses.classification.sum() + losses.box.sum()).backward()
    for tensor in (logits, deltas):
        assert tensor.grad is not None
        assert (tensor.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_are_float32_for_predictions_of_any_type(dtype: torch.dtype) -> None:
    predictions, targets = case(6, 3, 3, 0)
    low = RoIPredictions(*(tensor.to(dtype) for tensor in predictions))
    exact = RoIPredictions(*(tensor.float() for tensor in low))
    for found, expected in zip(roi_losses(low, targets, 1.0), roi_losses(exact, targets, 1.0), strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)


def test_a_large_error_has_a_finite_loss_and_gradient() -> None:
    deltas: Tensor = torch.full((1, 1, 4), 1e30, requires_grad=True)
    losses = roi_losses(
        RoIPredictions(torch.zeros(1, 2), deltas), RoITargets(torch.tensor([1]), torch.zeros(1, 4)), 1.0
    )
    losses.box.sum().backward()
    assert torch.isfinite(losses.box).all()
    assert deltas.grad is not None
    assert (deltas.grad == 1).all()
