"""The multi-task loss against a loop in Python floats, and its zero gradients for background and ignored RoIs."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detector.box_losses import OverlapLoss, ciou_loss, giou_loss
from detector.build import build_loss
from detector.configs.compose import load_config
from detector.losses import RoILoss, RoILosses, smooth_l1
from detector.structures import RoIPredictions, RoITargets
from detector.targets import BoxCoder

PLAIN: dict[str, Any] = {
    "box_weight": 1.0,
    "sigma": 1.0,
    "overlap_loss": None,
    "label_smoothing": 0.0,
    "focal_gamma": 0.0,
    "class_weights": None,
}


def coder(rows: int) -> BoxCoder:
    return BoxCoder(rows=rows, mean=(0.05, -0.02, 0.1, 0.0), std=(0.1, 0.2, 0.3, 0.4))


def roi_losses(predictions: RoIPredictions, targets: RoITargets, sigma: float = 1.0, **settings: Any) -> RoILosses:
    loss = RoILoss(**{**PLAIN, "sigma": sigma, **settings})
    found: RoILosses = loss(predictions, targets, coder(predictions.deltas.shape[1]))
    return found


def targets_of(labels: Tensor, deltas: Tensor) -> RoITargets:
    """Return targets for smooth L1, which does not read the boxes."""
    return RoITargets(labels, deltas, torch.zeros_like(deltas), torch.zeros_like(deltas))


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
    return predictions, targets_of(labels, torch.randn(rois, 4, generator=generator))


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
    losses = roi_losses(RoIPredictions(torch.zeros(3, 5), deltas), targets_of(labels, torch.full((3, 4), 0.5)))
    losses.box.sum().backward()
    assert deltas.grad is not None
    assert deltas.grad[0, 1].tolist() == [-0.5] * 4
    deltas.grad[0, 1] = 0
    assert (deltas.grad == 0).all()


def test_ignored_rois_give_exact_zero_losses_and_zero_gradients() -> None:
    logits, deltas = torch.randn(4, 3, requires_grad=True), torch.randn(4, 2, 4, requires_grad=True)
    targets = targets_of(torch.full((4,), -1), torch.zeros(4, 4))
    losses = roi_losses(RoIPredictions(logits, deltas), targets)
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
    for found, expected in zip(roi_losses(low, targets), roi_losses(exact, targets), strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)


def test_a_large_error_has_a_finite_loss_and_gradient() -> None:
    deltas: Tensor = torch.full((1, 1, 4), 1e30, requires_grad=True)
    losses = roi_losses(RoIPredictions(torch.zeros(1, 2), deltas), targets_of(torch.tensor([1]), torch.zeros(1, 4)))
    losses.box.sum().backward()
    assert torch.isfinite(losses.box).all()
    assert deltas.grad is not None
    assert (deltas.grad == 1).all()


OVERLAP = pytest.mark.parametrize("overlap_loss", [giou_loss, ciou_loss])


def overlap_case(rois: int, classes: int, rows: int, seed: int) -> tuple[RoIPredictions, RoITargets]:
    """Return predictions near the ground truth. RoIs with label -1 are padding: boxes of size 0."""
    predictions, targets = case(rois, classes, rows, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    low = torch.rand(rois, 2, generator=generator) * 300
    boxes = torch.cat((low, low + 20 + 100 * torch.rand(rois, 2, generator=generator)), dim=1)
    gt_boxes = boxes + torch.randn(rois, 4, generator=generator) * 5
    boxes, gt_boxes = (torch.where(targets.labels[:, None] >= 0, item, 0.0) for item in (boxes, gt_boxes))
    return predictions, coder(rows).targets(boxes, targets.labels, gt_boxes)


def loop_decode(box: list[float], delta: list[float]) -> list[float]:
    """Apply normalised deltas to a box, in Python floats, with the statistics of `coder`."""
    mean, std = (0.05, -0.02, 0.1, 0.0), (0.1, 0.2, 0.3, 0.4)
    tx, ty, tw, th = (value * s + m for value, m, s in zip(delta, mean, std, strict=True))
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    x, y = (x1 + x2) / 2 + tx * width, (y1 + y2) / 2 + ty * height
    limit = math.log(1000 / 16)
    width, height = width * math.exp(min(tw, limit)), height * math.exp(min(th, limit))
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


@OVERLAP
@pytest.mark.parametrize("agnostic", [False, True])
@given(seed=st.integers(0, 10**6))
def test_overlap_losses_are_those_of_the_decoded_boxes(overlap_loss: OverlapLoss, agnostic: bool, seed: int) -> None:
    predictions, targets = overlap_case(20, 4, 1 if agnostic else 4, seed)
    found = roi_losses(predictions, targets, overlap_loss=overlap_loss, box_weight=3.0).box
    for index, label in enumerate(targets.labels.tolist()):
        if label <= 0:
            assert found[index] == 0
            continue
        row = predictions.deltas[index, 0 if agnostic else label - 1].tolist()
        decoded = torch.tensor(loop_decode(targets.boxes[index].tolist(), row), dtype=torch.float64)
        expected = 3 * overlap_loss(decoded, targets.gt_boxes[index].double())
        torch.testing.assert_close(found[index].double(), expected, rtol=1e-4, atol=1e-4)


@OVERLAP
def test_the_targets_as_predictions_give_no_overlap_loss(overlap_loss: OverlapLoss) -> None:
    predictions, targets = overlap_case(30, 3, 3, 0)
    exact = predictions._replace(deltas=targets.deltas[:, None].expand(-1, 3, -1))
    assert (targets.labels > 0).any()
    assert roi_losses(exact, targets, overlap_loss=overlap_loss).box.max() < 1e-4


@OVERLAP
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_overlap_losses_have_gradients_for_the_true_class_of_foreground_only(
    overlap_loss: OverlapLoss, dtype: torch.dtype
) -> None:
    """Also for background and padding whose deltas would overflow."""
    predictions, targets = overlap_case(40, 3, 3, 1)
    foreground = targets.labels > 0
    deltas = torch.where(foreground[:, None, None], predictions.deltas, 1e38).to(dtype).requires_grad_()
    losses = roi_losses(RoIPredictions(predictions.logits, deltas), targets, overlap_loss=overlap_loss)
    assert losses.box.dtype == torch.float32
    assert (losses.box[~foreground] == 0).all()
    losses.box.sum().backward()
    assert deltas.grad is not None
    assert deltas.grad.isfinite().all()
    reached = deltas.grad.abs().sum(dim=2) > 0
    expected = torch.zeros_like(reached)
    expected[foreground, targets.labels[foreground] - 1] = True
    assert torch.equal(reached, expected)


@OVERLAP
@pytest.mark.parametrize("delta", [-1e4, -100.0, 100.0, 1e4, 1e30])
def test_overlap_losses_of_wild_predictions_are_finite(overlap_loss: OverlapLoss, delta: float) -> None:
    deltas = torch.full((1, 1, 4), delta, requires_grad=True)
    box = torch.tensor([[10.0, 10.0, 50.0, 90.0]])
    losses = roi_losses(
        RoIPredictions(torch.zeros(1, 2), deltas),
        RoITargets(torch.tensor([1]), torch.zeros(1, 4), box, box),
        overlap_loss=overlap_loss,
    )
    losses.box.sum().backward()
    assert 0 < losses.box.item() < 3
    assert deltas.grad is not None
    assert deltas.grad.isfinite().all()


def test_class_settings_change_the_classification_alone() -> None:
    predictions, targets = case(20, 3, 3, 2)
    plain = roi_losses(predictions, targets)
    for changes in (
        {"label_smoothing": 0.1},
        {"focal_gamma": 2.0},
        {"class_weights": torch.tensor([1.0, 0.5, 1.0, 1.5])},
    ):
        changed = roi_losses(predictions, targets, **changes)
        assert not torch.equal(changed.classification, plain.classification)
        assert torch.equal(changed.box, plain.box)
        assert (changed.classification[targets.labels < 0] == 0).all()


def test_class_weights_are_not_in_the_state_dict_but_move_with_the_module() -> None:
    loss = RoILoss(**{**PLAIN, "class_weights": torch.ones(4)})
    assert loss.state_dict() == {}
    moved = loss.to("meta").class_weights
    assert moved is not None
    assert moved.is_meta


@pytest.mark.parametrize("overlap_loss", [None, giou_loss, ciou_loss])
def test_the_losses_compile_to_one_graph(overlap_loss: OverlapLoss | None) -> None:
    """No step waits for the device or depends on the number of foreground RoIs."""
    torch._dynamo.reset()
    predictions, targets = overlap_case(12, 3, 3, 5)
    loss = RoILoss(**{**PLAIN, "overlap_loss": overlap_loss, "label_smoothing": 0.1, "focal_gamma": 2.0})
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    for found, expected in zip(
        compiled(predictions, targets, coder(3)), loss(predictions, targets, coder(3)), strict=True
    ):
        torch.testing.assert_close(found, expected)
    torch._dynamo.reset()


@pytest.mark.parametrize(("words", "weight"), [([], 1.0), (["loss.box=giou"], 10.0), (["loss.box_weight=3"], 3.0)])
def test_the_usual_weight_depends_on_the_kind_of_box_loss(words: list[str], weight: float) -> None:
    assert build_loss(load_config(words).loss, None).box_weight == weight
